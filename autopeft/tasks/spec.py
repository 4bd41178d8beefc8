"""Where the rows of a study come from, as a study file says it."""

import math
import re
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from autopeft.errors import ConfigError

Kind = Literal[
    "classification",
    "multi_label_classification",
    "regression",
    "token_classification",
    "seq2seq",
    "causal",
]

Unseen = Literal["selection", "fold"]
"""What the final selection scores on: rows set aside, or each time a part of the training rows."""

LANGUAGE: frozenset[Kind] = frozenset({"seq2seq", "causal"})
"""Tasks whose answers are text: of an encoder-decoder, or of a decoder that continues a text."""

_OF_TEXT = ("bleu", "chrf", "rouge_1", "rouge_2", "rouge_l", "exact_match", "likelihood")

METRICS: dict[Kind, tuple[str, ...]] = {  # the default first
    "classification": ("accuracy", "f1", "mcc", "f1_macro"),
    "multi_label_classification": ("f1_micro", "f1_macro", "accuracy"),
    "regression": ("pearson", "spearman"),
    "token_classification": ("span_f1", "accuracy"),
    "seq2seq": _OF_TEXT,
    "causal": ("likelihood", *_OF_TEXT[:-1]),
}

_CORRELATIONS = {"mcc", "pearson", "spearman"}

_COLUMNS: dict[Kind, tuple[str, str]] = {  # of the text and the label, where nothing is said
    "classification": ("text", "label"),
    "multi_label_classification": ("text", "labels"),
    "regression": ("text", "label"),
    "token_classification": ("tokens", "tags"),
    "seq2seq": ("source", "target"),
    "causal": ("source", "target"),
}

_HOLDS: dict[Kind, Literal["words", "labels"]] = {
    "token_classification": "words",
    "multi_label_classification": "labels",
}

_OWN_METRIC = re.compile(r"(.+\.py):([^\W\d]\w*)")

_HUB = r"^[\w.-]+(/[\w.-]+){0,2}(@[\w./-]+)?$"


def own_metric_of(metric: str) -> tuple[Path, str] | None:
    """The file and the function that a metric like `my.py:fn` is; None if it is one of ours."""
    found = _OWN_METRIC.fullmatch(metric)
    return (Path(found[1]), found[2]) if found else None


def metric_name(metric: str) -> str:
    """What records call a metric: one of ours as it is, a function without its folder."""
    own = own_metric_of(metric)
    return f"{own[0].name}:{own[1]}" if own else metric


def metric_range(metric: str) -> tuple[float, float]:
    """The least and the largest value of a metric; of a function of one's own, who knows."""
    if metric not in {name for names in METRICS.values() for name in names}:
        return -math.inf, math.inf
    return (-1.0 if metric in _CORRELATIONS else 0.0), 1.0


def check_metric(metric: str, kind: Kind) -> None:
    """Refuse a metric that is not one of ours for a kind of task.

    Raises:
        ConfigError: naming those that are.
    """
    if metric not in METRICS[kind]:
        allowed = ", ".join(METRICS[kind])
        raise ConfigError(f"metric: '{metric}' does not suit {kind}; allowed: {allowed}")


def absolute_metric(metric: str, base: Path) -> str:
    """The same metric, a function of a file with the file's absolute path."""
    own = own_metric_of(metric)
    return f"{(base / own[0]).resolve()}:{own[1]}" if own else metric


class Columns(NamedTuple):
    """The columns that are read of a data set.

    Attributes:
        text: of the one text or the pair.
        label: of the label or the answer.
        references: of what answers are scored against, if that is not the answer.
        holds: texts and their label; a list of words, and one of their tags; texts and a list of
            labels; or messages, the last of which is the answer.
        flags: of labels that are there or not, 1 or 0, instead of `label`.
    """

    text: tuple[str, ...]
    label: str
    references: str | None = None
    holds: Literal["texts", "words", "labels", "messages"] = "texts"
    flags: tuple[str, ...] = ()

    @property
    def told(self) -> tuple[str, ...]:
        """Those of the label or the answer."""
        return self.flags or (self.label,)

    @property
    def names(self) -> tuple[str, ...]:
        """All of them."""
        every = (*self.text, *self.told, *filter(None, (self.references,)))
        return tuple(dict.fromkeys(every))  # of messages, text and answer are in one


def columns_of(split: str, columns: Columns) -> Columns:
    """What is read of one split: nothing is scored on the training rows."""
    return columns._replace(references=None) if split == "train" else columns


def _listed(value: object) -> object:
    return [value] if isinstance(value, str) else value


class DataSpec(BaseModel):
    """The data of a study: files of one's own, or a data set of the Hugging Face Hub.

    Attributes:
        train: CSV, JSONL or Parquet file, by its suffix.
        validation: likewise; without it, a part of the training rows is set aside.
        selection: likewise; rows for the final selection alone. Without it, a part of the
            training rows is set aside, unless they are few.
        test: likewise; optional.
        hub: `owner/name`, `owner/name/configuration` or `glue/sst2`, each with an optional
            `@revision`; instead of files.
        text: the column of the text, or the two columns of a pair. Without it, `text`, or `source`
            where the answer is text, or `tokens` where words have tags; for a GLUE task, its own
            columns.
        label: the column of the label, of the answer, or of the tags; without it, `label`, `target`
            or `tags`; `labels` where a row has any number of them, a list of names or integers.
        label_columns: where a row has any number of labels, columns that say of one label each
            whether it is there, 1 or 0 (or true or false), instead of `label`.
        messages: where a decoder answers, a column of conversations, instead of `text` and `label`:
            lists of objects with `role` and `content`. The last message, of the role `assistant`,
            is the answer; the model's own chat template writes what precedes it.
        references: where answers are text, a column with one or several of them to score against,
            in all files but the training file; without it, the answers themselves.
        train_rows: use only so many training rows, drawn with the seed; the first n of a larger
            draw are the draw of n.
        selection_rows: set so many training rows aside for the final selection; 0 for none.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    train: Path | None = None
    validation: Path | None = None
    selection: Path | None = None
    test: Path | None = None
    hub: Annotated[str, Field(pattern=_HUB)] | None = None
    text: (
        Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1, max_length=2)]
        | None
    ) = None
    label: str | None = None
    label_columns: (
        Annotated[tuple[str, ...], BeforeValidator(_listed), Field(min_length=1)] | None
    ) = None
    messages: str | None = None
    references: str | None = None
    train_rows: Annotated[int, Field(ge=2)] | None = None
    selection_rows: Annotated[int, Field(ge=0)] | None = None

    @model_validator(mode="after")
    def _one_source(self) -> "DataSpec":
        if (self.hub is None) == (self.train is None):
            raise ValueError("give either `train` (a file) or `hub` (a name), one of the two")
        if self.hub is not None and (self.validation or self.selection or self.test):
            raise ValueError(
                "`validation`, `selection` and `test` are files and go with `train`, not with `hub`"
            )
        if self.selection is not None and self.selection_rows is not None:
            raise ValueError("give either `selection` (a file) or `selection_rows` (a number)")
        return self

    @model_validator(mode="after")
    def _messages_alone(self) -> "DataSpec":
        if self.label is not None and self.label_columns is not None:
            raise ValueError("give either `label` or `label_columns`")
        if self.messages is not None and (self.text or self.label or self.label_columns):
            raise ValueError("give either `messages` or `text` and `label`")
        if self.messages is not None and self.messages == self.references:
            raise ValueError(f"column `{self.messages}` is named twice by `messages`, `references`")
        return self

    @model_validator(mode="after")
    def _distinct_columns(self) -> "DataSpec":
        label = self.label_columns or (self.label or "label",)
        columns = [*(self.text or ()), *label, *filter(None, (self.references,))]
        if repeated := sorted({name for name in columns if columns.count(name) > 1}):
            key = "`label_columns`" if self.label_columns else "`label`"
            keys = f"`text`, {key} and `references`" if self.references else f"`text` and {key}"
            raise ValueError(f"column `{repeated[0]}` is named twice by {keys}")
        return self

    def columns(self, kind: Kind, text: tuple[str, ...] | None = None) -> Columns:
        """What to read.

        Args:
            kind: of the task.
            text: the text columns where they are known without being told.
        """
        one, label = _COLUMNS[kind]
        if self.messages is not None:
            return Columns((self.messages,), self.messages, self.references, "messages")
        return Columns(
            text=self.text or text or (one,),
            label=self.label or label,
            references=self.references,
            holds=_HOLDS.get(kind, "texts"),
            flags=self.label_columns or (),
        )


class GenerationSpec(BaseModel):
    """How answers that are texts are encoded, learnt and written.

    Attributes:
        max_target_length: longest answer in tokens, its end included; `training.max_length` is that
            of the text it answers.
        separator: between text and answer, where a decoder continues a text.
        label_smoothing: part of the probability that is spread over all words while training.
        max_new_tokens: that are written at most; as many as `max_target_length` by default.
        beams: of the search for an answer; 1 is greedy.
        length_penalty: exponent of the length by which a beam's score is divided.
        no_repeat_ngram: no so many words in a row are written twice; 0 for no such rule.
        source_language: of the texts, as the tokenizer of a model for many languages calls it
            (`en_XX` for mBART).
        target_language: of the answers, likewise.
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    max_target_length: Annotated[int, Field(strict=True, ge=2, le=100_000)] = 64
    separator: str = "\n"
    label_smoothing: Annotated[float, Field(ge=0, lt=1)] = 0.0
    max_new_tokens: Annotated[int, Field(strict=True, ge=1, le=100_000)] | None = None
    beams: Annotated[int, Field(strict=True, ge=1, le=64)] = 1
    length_penalty: Annotated[float, Field(allow_inf_nan=False)] = 1.0
    no_repeat_ngram: Annotated[int, Field(strict=True, ge=0, le=100)] = 0
    source_language: str | None = None
    target_language: str | None = None

    @property
    def n_new(self) -> int:
        """Tokens that are written at most."""
        return self.max_new_tokens or self.max_target_length
