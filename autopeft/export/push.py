"""Putting an export on the Hugging Face Hub."""

from pathlib import Path

from huggingface_hub import HfApi

# Of httpx, httpx2 or requests: each version of the client has another library underneath.
from huggingface_hub.errors import (  # type: ignore[attr-defined]
    HFValidationError,
    HTTPError,
    LocalTokenNotFoundError,
)

from autopeft.errors import DataError


def push(folder: Path, repo: str) -> str:
    """Upload a folder; the repository is made, private, if it is not there.

    The token is the one that `hf auth login` or HF_TOKEN holds. It is handed to the Hub by its own
    client and written nowhere.

    Args:
        folder: of the export.
        repo: `user/name`.

    Returns:
        The address of the commit.

    Raises:
        DataError: the Hub refused it or cannot be reached; the folder stays where it is.
    """
    api = HfApi()
    try:
        api.create_repo(repo, private=True, exist_ok=True)
        commit = api.upload_folder(
            repo_id=repo, folder_path=folder, commit_message="Export by autopeft"
        )
    except (HTTPError, HFValidationError, LocalTokenNotFoundError) as error:
        cause = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise DataError(f"{folder} is there, but not pushed to {repo}: {cause}") from None
    return str(commit.commit_url)
