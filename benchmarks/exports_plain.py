"""What somebody without autopeft gets out of an export: peft or transformers alone, and the texts.

Run as a file by an interpreter that cannot import autopeft: `python -I exports_plain.py
question.json`. The last line that it prints is the predicted class of every text, as JSON.
"""

import importlib.util
import json
import sys
import warnings
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForSequenceClassification, AutoTokenizer

BATCH_SIZE = 64


def load(question: dict[str, Any]) -> Any:
    """The model, by the library that the export is for."""
    folder = question["folder"]
    if question["target"] == "merged":
        return AutoModelForSequenceClassification.from_pretrained(folder).eval()
    from peft import PeftModel  # noqa: PLC0415 - a merged export needs none

    base = AutoModelForSequenceClassification.from_pretrained(
        question["backbone"], num_labels=question["n_outputs"]
    )
    return PeftModel.from_pretrained(base, folder).eval()


def main() -> None:
    """Read the question, print the answer."""
    if importlib.util.find_spec("autopeft") is not None:
        raise SystemExit("autopeft can be imported here")
    warnings.simplefilter("ignore")
    question = json.loads(Path(sys.argv[1]).read_text(encoding="utf-8"))
    model = load(question)
    if question["target"] == "merged" and "peft" in sys.modules:
        raise SystemExit("a merged export has imported peft")
    tokenizer = AutoTokenizer.from_pretrained(question["folder"])
    texts, classes = question["texts"], []
    cut = {"truncation": True, "max_length": question["max_length"]}
    for start in range(0, len(texts), BATCH_SIZE):
        some = texts[start : start + BATCH_SIZE]
        batch = tokenizer(some, padding=True, return_tensors="pt", **cut)
        with torch.no_grad():
            classes += model(**batch).logits.argmax(-1).tolist()
    print(json.dumps(classes))


if __name__ == "__main__":
    main()
