"""Conversations: rows of messages, the last of which, an assistant's, is the answer."""

import json
from collections.abc import Iterator

from transformers import PreTrainedTokenizerBase

from autopeft.errors import ConfigError, DataError
from autopeft.tasks.splits import Split


def check_template(tokenizer: PreTrainedTokenizerBase) -> None:
    """Refuse a tokenizer that does not know how conversations are written.

    Raises:
        ConfigError: it does not.
    """
    if not tokenizer.chat_template:
        raise ConfigError(
            "data.messages: the model's tokenizer has no chat template; give `data.text` and "
            "`data.label` instead"
        )


def asked_tokens(split: Split, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
    """What precedes each answer, as the model's template writes it, up to where it has to answer.

    Args:
        split: its texts are messages, as `as_text` makes them.
        tokenizer: of the model.

    Raises:
        ConfigError: it has no template.
        DataError: the template refuses a conversation.
    """
    check_template(tokenizer)
    for row, (text,) in enumerate(split.texts, 1):
        try:
            ids: list[int] = tokenizer.apply_chat_template(
                json.loads(text), add_generation_prompt=True, tokenize=True, return_dict=False
            )
        except Exception as error:  # whatever the template, a program, comes to
            raise DataError(
                f"{split.name}: the model's chat template refuses row {row}: {error}"
            ) from error
        yield ids
