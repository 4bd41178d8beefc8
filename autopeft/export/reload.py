"""Loads an export as somebody else would, in a process of its own, and says what it puts out.

Run as a file: `python -P reload.py question.json answer.safetensors`. Nothing of autopeft is
imported here but for the native format; for the others its import is made to fail.
"""

import json
import sys
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

_NO_MATCH = ("missing", "unexpected", "unmatched", "not found", "mismatch")
"""Words of warnings about weights that did not find their place."""


def answer(question: dict[str, Any]) -> Any:
    """The outputs [row, output] for texts, from the texts on.

    Args:
        question: `target`, `folder`, `backbone`, `revision`, `n_outputs`, `pad_token_id`, `texts`
            (a list of rows, each a list of one or two), `max_length`, `batch_size`.

    Raises:
        RuntimeError: something was loaded with a warning about keys.
    """
    return outputs(*load(question), question)


def outputs(model: Any, tokenizer: Any, question: dict[str, Any]) -> Any:
    """The outputs [row, output] of a model."""
    import torch  # noqa: PLC0415

    model.eval()
    with torch.no_grad():
        return torch.cat([model(**b).logits.float() for b in _batches(question, tokenizer)])


def load(question: dict[str, Any]) -> tuple[Any, Any]:
    """The model and tokenizer of an export, by the library that it is for."""
    folder = question["folder"]
    if question["target"] == "native":
        from autopeft.export import native  # noqa: PLC0415

        return native.load(folder)
    from transformers import AutoModelForSequenceClassification, AutoTokenizer  # noqa: PLC0415

    tokenizer = AutoTokenizer.from_pretrained(folder)
    if question["target"] == "merged":
        return AutoModelForSequenceClassification.from_pretrained(folder), tokenizer
    return _with_peft(question), tokenizer


def _with_peft(question: dict[str, Any]) -> Any:
    from peft import PeftModel, get_peft_model_state_dict  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415
    from transformers import AutoModelForSequenceClassification  # noqa: PLC0415

    base = AutoModelForSequenceClassification.from_pretrained(
        question["backbone"],
        revision=question["revision"] or "main",
        num_labels=question["n_outputs"],
        ignore_mismatched_sizes=True,
    )
    if base.config.pad_token_id is None:
        base.config.pad_token_id = question["pad_token_id"]
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        model = PeftModel.from_pretrained(base, question["folder"])
    told = [str(warning.message) for warning in caught]
    if bad := [text for text in told if any(word in text.lower() for word in _NO_MATCH)]:
        raise RuntimeError(f"peft warns: {bad[0]}")
    # Of names that it does not know it says nothing.
    found = load_file(Path(question["folder"]) / "adapter_model.safetensors").keys()
    if odd := found ^ get_peft_model_state_dict(model, save_embedding_layers=False).keys():
        raise RuntimeError(f"peft has no place for {min(odd)}")
    return model


def _batches(question: dict[str, Any], tokenizer: Any) -> Iterator[dict[str, Any]]:
    import torch  # noqa: PLC0415

    texts, size = question["texts"], question["batch_size"]
    for start in range(0, len(texts), size):
        columns = [list(column) for column in zip(*texts[start : start + size], strict=True)]
        cut = {"truncation": True, "max_length": question["max_length"]}
        rows = tokenizer(*columns, return_attention_mask=False, verbose=False, **cut)
        longest = max(map(len, rows["input_ids"]))
        fills = {"input_ids": tokenizer.pad_token_id or 0, "token_type_ids": 0}
        batch = {
            name: torch.tensor([[*row, *[fill] * (longest - len(row))] for row in rows[name]])
            for name, fill in fills.items()
            if name in rows and name in tokenizer.model_input_names
        }
        mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows["input_ids"]]
        yield {**batch, "attention_mask": torch.tensor(mask)}


class _WithoutAutopeft:
    """Makes the import of autopeft fail, as where it is not installed."""

    def find_spec(self, name: str, *_: Any) -> None:
        """Refuse it.

        Raises:
            ModuleNotFoundError: it is autopeft.
        """
        if name.partition(".")[0] == "autopeft":
            raise ModuleNotFoundError(f"no {name} here", name=name)


def main() -> None:
    """Read the question, write the answer."""
    question = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    if question["target"] != "native":
        sys.meta_path.insert(0, _WithoutAutopeft())
    from safetensors.torch import save_file  # noqa: PLC0415

    save_file({"logits": answer(question).contiguous()}, sys.argv[2])


if __name__ == "__main__":
    main()
