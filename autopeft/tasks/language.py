"""Tasks whose answers are text: how rows are encoded, and how good what was written is."""

import importlib.util
from collections.abc import Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, field, replace
from typing import Any, Literal

import numpy as np
import torch
from jaxtyping import Float
from numpy.typing import NDArray
from transformers import PreTrainedTokenizerBase

from autopeft.errors import ConfigError, DataError
from autopeft.records import Metric
from autopeft.tasks.chat import asked_tokens
from autopeft.tasks.encode import IGNORED, Answers, Encoded, encode
from autopeft.tasks.own_metric import OwnMetric
from autopeft.tasks.spec import METRICS, GenerationSpec
from autopeft.tasks.splits import Split
from autopeft.tasks.texts import MODULES, Scores, scores_of
from autopeft.tasks.tokenizing import answer_tokens, check_length, tokenized

TARGET_KEY = "generation.max_target_length"


@dataclass(frozen=True)
class Written:
    """What a model makes of one row.

    Attributes:
        loss: of the answer's tokens, in nats, in all.
        n_tokens: of the answer.
        text: what the model wrote by itself; None if it was not asked to.
    """

    loss: float
    n_tokens: int
    text: str | None = None


@dataclass(frozen=True)
class Language:
    """A text for a text; cross-entropy of the answer's tokens.

    Attributes:
        kind: `seq2seq` for an encoder-decoder, `causal` for a decoder.
        metric: one of `METRICS[kind]`, or the name of `own`.
        generation: how answers are encoded, learnt and written.
        own: the function that is the metric, if it is one.
        chat: what is answered are messages.
    """

    kind: Literal["seq2seq", "causal"]
    metric: str
    generation: GenerationSpec = field(default_factory=GenerationSpec)
    own: OwnMetric | None = None
    chat: bool = False

    def __post_init__(self) -> None:
        if self.own is None and self.metric not in (allowed := METRICS[self.kind]):
            raise ConfigError(
                f"metric: '{self.metric}' does not suit {self.kind}; allowed: {', '.join(allowed)}"
            )
        module = MODULES.get(self.metric)
        if module is not None and importlib.util.find_spec(module) is None:
            raise ConfigError(
                f"metric: '{self.metric}' needs the package {module.replace('_', '-')}; "
                "pip install 'autopeft[generation]'"
            )

    @property
    def generates(self) -> bool:
        """The model has to write answers by itself; their likelihood is not enough."""
        return self.metric != "likelihood"

    def scored_by(self, metric: str) -> "Language":
        """The same task with one of our own metrics."""
        return replace(self, metric=metric, own=None)

    @property
    def cut(self) -> str:
        """Where answers are cut, for a message about texts that are."""
        return f", or their answers at {self.generation.max_target_length}"

    def encode(self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int) -> Encoded:
        """Tokenise a split.

        Args:
            split: its labels are texts.
            tokenizer: of the model.
            max_length: longest text in tokens; answers have `generation.max_target_length`.

        Raises:
            ConfigError: no room for text in these lengths, or more than the model can read; no
                token ends a text; or messages, and the model has no chat template.
            DataError: the model's chat template refuses a conversation, or a text has no tokens, so
                nothing can follow it.
        """
        if tokenizer.eos_token_id is None:
            raise ConfigError(
                f"task: {self.kind} takes a token that ends a text, and the model's tokenizer has "
                "none (`eos_token` in tokenizer_config.json), so that answers would have no end"
            )
        if self.kind == "causal":
            return self._continued(split, tokenizer, max_length)
        check_length(self.generation.max_target_length, tokenizer, 1, TARGET_KEY)
        speak(tokenizer, self.generation)
        read = encode(split.asked, tokenizer, max_length)
        targets, n_cut = self.targets(split, tokenizer)
        return Encoded(
            read.input_ids,
            read.token_type_ids,
            torch.tensor([len(target) for target in targets]),
            max(read.truncated_fraction, n_cut / len(split)),
            Answers(targets, split.answers, continues=False),
        )

    def targets(
        self, split: Split, tokenizer: PreTrainedTokenizerBase
    ) -> tuple[list[list[int]], int]:
        """The tokens of each answer as they are learnt, its end included, and how many are cut.

        Args:
            split: its labels are texts.
            tokenizer: of the model, told of languages (`speak`).
        """
        longest, eos = self.generation.max_target_length, tokenizer.eos_token_id
        if self.kind == "seq2seq":
            answers = answer_tokens(split, lambda some: tokenizer(text_target=some, verbose=False))
            return _cut(answers, longest, _ends(tokenizer))
        written = answer_tokens(
            split, lambda some: tokenizer(some, add_special_tokens=False, verbose=False)
        )
        return _cut(([*ids, eos] for ids in written), longest, {eos})

    def _continued(
        self, split: Split, tokenizer: PreTrainedTokenizerBase, max_length: int
    ) -> Encoded:
        """A text and, behind a separator, its answer.

        Of a text that is too long, the end, behind the token that texts begin with, if one does.
        """
        both = max_length + self.generation.max_target_length
        check_length(both, tokenizer, 1, f"max_length + {TARGET_KEY}")
        asked = asked_tokens(split, tokenizer) if self.chat else self._asked(split, tokenizer)
        kept, n_long = [], 0
        for texts, ids in zip(split.texts, asked, strict=True):
            if not ids:
                raise DataError(
                    f"the tokenizer makes no token of {texts}, so nothing can follow it"
                )
            n_long += len(ids) > max_length
            kept.append(_end_of(ids, max_length, tokenizer.bos_token_id))
        answers, n_cut = self.targets(split, tokenizer)
        return Encoded(
            [[*ids, *answer] for ids, answer in zip(kept, answers, strict=True)],
            None,
            torch.tensor([len(answer) for answer in answers]),
            max(n_long, n_cut) / len(split),
            Answers(
                [
                    [*[IGNORED] * len(ids), *answer]
                    for ids, answer in zip(kept, answers, strict=True)
                ],
                split.answers,
                continues=True,
            ),
        )

    def _asked(self, split: Split, tokenizer: PreTrainedTokenizerBase) -> Iterator[list[int]]:
        """Tokens of each text and the separator behind it, without an end."""
        separator, eos = self.generation.separator, tokenizer.eos_token_id
        texts = [(separator.join(texts) + separator,) for texts in split.texts]
        for row in tokenized(texts, tokenizer):
            yield row.ids[:-1] if row.ids and row.ids[-1] == eos else row.ids

    def metrics(self, predictions: NDArray[Any], truth: NDArray[Any]) -> dict[str, Metric]:
        """Every metric that can be told of one trial's rows, the chosen one first.

        Args:
            predictions: [row], `Written`.
            truth: [row], tuples of references.
        """
        found = {
            name: Metric(scores.value, scores.stderr)
            for name, scores in self._scores(METRICS[self.kind], predictions, truth).items()
        }
        if self.own is not None:
            return self.own.measure(*_told(predictions, truth)) | found
        return {self.metric: found[self.metric]} | found

    def row_scores(
        self, predictions: NDArray[Any], truth: NDArray[Any]
    ) -> Float[np.ndarray, " row"]:
        """What each row adds to the chosen metric; their mean is the metric."""
        if self.own is not None:
            return self.own.row_scores(*_told(predictions, truth))
        return self._scores((self.metric,), predictions, truth)[self.metric].rows

    def _scores(
        self, names: Sequence[str], predictions: NDArray[Any], truth: NDArray[Any]
    ) -> dict[str, Scores]:
        return scores_of(
            names,
            losses=[(one.loss, one.n_tokens) for one in predictions],
            texts=[one.text for one in predictions] if self.generates else None,
            references=list(truth),
        )


def _told(predictions: NDArray[Any], truth: NDArray[Any]) -> tuple[list[str], list[list[str]]]:
    """What a function is told of what was written, and of the references."""
    return [one.text for one in predictions], [list(references) for references in truth]


def speak(tokenizer: PreTrainedTokenizerBase, generation: GenerationSpec) -> None:
    """Tell a tokenizer of many languages which ones texts and answers are in.

    Raises:
        ConfigError: it knows no languages, not this one, or has not been told one.
    """
    for key, attribute in (("source_language", "src_lang"), ("target_language", "tgt_lang")):
        name, knows = getattr(generation, key), hasattr(tokenizer, attribute)
        if name is None:
            if knows and getattr(tokenizer, attribute) is None:
                raise ConfigError(f"generation.{key}: the tokenizer has to be told, like en_XX")
            continue
        if not knows:
            raise ConfigError(f"generation.{key}: the tokenizer of this model knows no languages")
        if name not in tokenizer.all_special_tokens:
            known = [token for token in tokenizer.all_special_tokens if not token.startswith("<")]
            raise ConfigError(
                f"generation.{key}: the tokenizer has no `{name}`; allowed: {', '.join(known)}"
            )
        setattr(tokenizer, attribute, _codes(tokenizer).get(name, name))


def _codes(tokenizer: PreTrainedTokenizerBase) -> dict[str, str]:
    """What a tokenizer calls its languages, by their tokens, where it is not the same: M2M100's."""
    return {token: code for code, token in getattr(tokenizer, "lang_code_to_token", {}).items()}


def _ends(tokenizer: PreTrainedTokenizerBase) -> set[int]:
    """The tokens that answers end with: the end, and behind it the language, in some models."""
    language = getattr(tokenizer, "tgt_lang", None)
    ends = {tokenizer.eos_token_id}
    if language is None:
        return ends
    token = getattr(tokenizer, "lang_code_to_token", {}).get(language, language)
    return {*ends, tokenizer.convert_tokens_to_ids(token)}


def _end_of(ids: list[int], longest: int, bos: int | None) -> list[int]:
    """The last of too many tokens, behind the one that texts begin with, if this one does."""
    first = ids[:1] if ids[0] == bos else []
    return ids if len(ids) <= longest else [*first, *ids[len(ids) - longest + len(first) :]]


def _cut(
    rows: Iterable[list[int]], longest: int, ends: Collection[int | None]
) -> tuple[list[list[int]], int]:
    """Rows of at most this many tokens, which end as they did, and how many were longer."""
    cut, n_long = [], 0
    for ids in rows:
        n_end = next((i for i, token in enumerate(reversed(ids)) if token not in ends), len(ids))
        end = ids[len(ids) - n_end :]
        cut.append(ids if len(ids) <= longest else [*ids[: longest - n_end], *end])
        n_long += len(ids) > longest
    return cut, n_long
