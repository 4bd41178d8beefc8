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

_IGNORED = -100
_NO_MATCH = ("missing", "unexpected", "unmatched", "not found", "mismatch")
"""Words of warnings about weights that did not find their place."""


def answer(question: dict[str, Any]) -> Any:
    """The outputs [row, output], and what it writes, if it does.

    Args:
        question: `target`, `folder`, `backbone`, `revision`, `class`, `arguments`, `part` (what
            the configuration of a model's part for texts is told, or None if it is all of the
            model), `pad_token_id`, `finds_padding` (the head has to know what pads), `in_full`
            (weight matrices that are not in NF4, or None if none is), `texts` (a list of rows, each
            a list of one or two), `max_length`, `batch_size`, where answers are texts, `answers`,
            and where words have tags, `tagged`.

    Raises:
        RuntimeError: something was loaded with a warning about keys.
    """
    model, tokenizer = load(question)
    return outputs(model, tokenizer, question), _texts(model, tokenizer, question)


def outputs(model: Any, tokenizer: Any, question: dict[str, Any]) -> Any:
    """The outputs [row, output] of a model, or of every token to write or that has a tag."""
    import torch  # noqa: PLC0415

    model.eval()
    with torch.no_grad():
        if question.get("answers") is not None:
            every = range(0, len(question["texts"]), question["batch_size"])
            return torch.cat([_likelihoods(model, question, start) for start in every])
        found = [model(**b).logits.float() for b in _batches(question, tokenizer)]
        if (tagged := question.get("tagged")) is None:
            return torch.cat(found)
        rows = (row for batch in found for row in batch)
        return torch.cat([row[tokens] for row, tokens in zip(rows, tagged, strict=True)])


def _likelihoods(model: Any, question: dict[str, Any], start: int) -> Any:
    """The log-probability [token, 1] of the tokens to write of some rows."""
    import torch  # noqa: PLC0415

    answers, end = question["answers"], start + question["batch_size"]
    ids, mask = _padded(answers["input_ids"][start:end], question["pad_token_id"])
    targets, _ = _padded(answers["targets"][start:end], _IGNORED)
    batch = {"input_ids": ids, "attention_mask": mask}
    if not answers["continues"]:
        batch["labels"] = targets  # of which each model knows what its decoder reads
    found = model(**batch).logits.float().log_softmax(-1)
    if answers["continues"]:
        found, targets = found[:, :-1], targets[:, 1:]
    wanted = targets != _IGNORED
    return torch.gather(found[wanted], 1, targets[wanted][:, None])


def _texts(model: Any, tokenizer: Any, question: dict[str, Any]) -> list[str]:
    """What a model writes for the first rows by itself."""
    if (answers := question["answers"]) is None:
        return []
    rows = answers["input_ids"][: answers["n_written"]]
    if answers["continues"]:
        targets = answers["targets"]
        rows = [ids[: targets[row].count(_IGNORED)] for row, ids in enumerate(rows)]
    found, size = [], _batch_size(question, tokenizer)
    for start in range(0, len(rows), size):
        read = {"input_ids": rows[start : start + size]}
        batch = tokenizer.pad(read, padding=size > 1, return_tensors="pt")
        written = model.generate(**batch)
        n_read = batch["input_ids"].shape[1] if answers["continues"] else 0
        found += tokenizer.batch_decode(written[:, n_read:], skip_special_tokens=True)
    return [text.strip() for text in found]


def _padded(rows: list[list[int]], fill: int) -> tuple[Any, Any]:
    import torch  # noqa: PLC0415

    longest = max(map(len, rows))
    filled = [[*row, *[fill] * (longest - len(row))] for row in rows]
    mask = [[1] * len(row) + [0] * (longest - len(row)) for row in rows]
    return torch.tensor(filled), torch.tensor(mask)


def load(question: dict[str, Any]) -> tuple[Any, Any]:
    """The model and tokenizer of an export, by the library that it is for."""
    folder = question["folder"]
    if question["target"] == "native":
        from autopeft.export import native  # noqa: PLC0415

        return native.load(folder)
    import transformers  # noqa: PLC0415

    tokenizer = transformers.AutoTokenizer.from_pretrained(folder)
    if question["target"] == "merged":
        return getattr(transformers, question["class"]).from_pretrained(folder), tokenizer
    return _with_peft(question, tokenizer), tokenizer


def _with_peft(question: dict[str, Any], tokenizer: Any) -> Any:
    import transformers  # noqa: PLC0415
    from peft import PeftModel, get_peft_model_state_dict  # noqa: PLC0415
    from safetensors.torch import load_file  # noqa: PLC0415

    backbone, revision = question["backbone"], question["revision"] or "main"
    arguments = dict(question["arguments"])
    if question["part"] is not None:
        config = transformers.AutoConfig.from_pretrained(backbone, revision=revision).text_config
        for name, value in question["part"].items():
            setattr(config, name, value)
        arguments["config"] = config
    if question["in_full"] is not None:
        arguments["quantization_config"] = transformers.BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            llm_int8_skip_modules=question["in_full"],
        )
    auto = getattr(transformers, question["class"])
    base = auto.from_pretrained(backbone, revision=revision, **arguments)
    if question["answers"] is not None:
        base.generation_config = transformers.GenerationConfig(**question["answers"]["writes"])
    for module in base.modules():
        # Or some CPUs would compute in bf16 what was trained in fp32.
        if hasattr(module, "support_avx512bf16_for_cpu"):
            module.support_avx512bf16_for_cpu = False
    if question["finds_padding"]:
        base.config.pad_token_id = tokenizer.pad_token_id
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
    """The texts as the tokenizer makes batches of them."""
    texts, size = question["texts"], _batch_size(question, tokenizer)
    cut = {"truncation": True, "max_length": question["max_length"]}
    for start in range(0, len(texts), size):
        columns = [list(column) for column in zip(*texts[start : start + size], strict=True)]
        yield tokenizer(*columns, padding=size > 1, return_tensors="pt", verbose=False, **cut)


def _batch_size(question: dict[str, Any], tokenizer: Any) -> int:
    """One, where nothing pads."""
    return 1 if tokenizer.pad_token is None else int(question["batch_size"])


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
    import torch  # noqa: PLC0415
    from safetensors.torch import save_file  # noqa: PLC0415

    found, texts = answer(question)
    said = torch.tensor(list(json.dumps(texts).encode()), dtype=torch.uint8)
    save_file({"logits": found.contiguous(), "texts": said}, sys.argv[2])


if __name__ == "__main__":
    main()
