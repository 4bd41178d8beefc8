"""Whether a metric of texts can tell perfect answers from others, and a model can write them."""

from collections.abc import Mapping, Sequence
from reprlib import repr as shortened

from transformers import PreTrainedTokenizerBase

from autopeft.errors import ConfigError
from autopeft.tasks.language import Language
from autopeft.tasks.spec import METRICS
from autopeft.tasks.splits import Split
from autopeft.tasks.texts import MODULES, scores_of

ENOUGH = 0.95
"""Of perfect answers; below it, the metric misses too much of what answers are."""

_COUNTS: Mapping[str, str] = {
    "bleu": "it counts runs of four words, which blanks part",
    "rouge_1": "it counts words of a-z and 0-9",
    "rouge_2": "it counts pairs of words of a-z and 0-9",
    "rouge_l": "it counts words of a-z and 0-9",
}


def remark_on_ideal(task: Language, split: Split) -> str | None:
    """That a metric gives perfect answers less than 1, if it does.

    Args:
        task: its metric is held against the answers; one of the user's own is left alone.
        split: the rows that are scored.

    Raises:
        ConfigError: it gives them nothing, so that a search for the best would find anything.
    """
    metric = task.metric
    if task.own is not None or metric not in MODULES or _ideal(metric, split) >= ENOUGH:
        return None
    others = [name for name in METRICS[task.kind] if name not in (metric, "likelihood")]
    fit = [*(name for name in others if _ideal(name, split) >= ENOUGH), "likelihood"]
    why = f" ({_COUNTS[metric]})" if metric in _COUNTS else ""
    found = _ideal(metric, split)
    told = f"of perfect answers on the validation rows is {found:.2f}{why}; take {_any_of(fit)}"
    if not found:
        raise ConfigError(f"metric: '{metric}' {told}")
    return f"metric: '{metric}' {told}, which give them 1"


def remark_on_tokens(
    task: Language, split: Split, tokenizer: PreTrainedTokenizerBase
) -> str | None:
    """That a model cannot write perfect answers, by its tokens or in so many, if it costs much.

    Args:
        task: its metric is held against the answers; one of the user's own is left alone.
        split: the rows that are scored.
        tokenizer: of the model, told of languages.

    Raises:
        ConfigError: what it could write at best scores nothing.
    """
    if task.own is not None or not task.generates:
        return None
    best = [references[0] for references in split.answers]
    targets, n_cut = task.targets(Split(split.name, split.texts, tuple(best)), tokenizer)
    ids = [row[: task.generation.n_new] for row in targets]
    texts = [text.strip() for text in tokenizer.batch_decode(ids, skip_special_tokens=True)]
    others = [pair for pair in zip(best, texts, strict=True) if pair[0].split() != pair[1].split()]
    found = _ideal(task.metric, split, texts) if others else 1.0
    if not others or found >= ENOUGH * _ideal(task.metric, split):
        return None
    was, becomes = map(shortened, others[0])
    told = (
        f"metric: '{task.metric}' of perfect answers on the validation rows is {found:.2f} once "
        f"the model's tokenizer has read and written them: {len(others):,} of {len(best):,} come "
        f"out as others, as {was} becomes {becomes}"
    )
    if n_cut:
        longest = task.generation.max_target_length
        told += f"; {n_cut:,} are cut at generation.max_target_length: {longest}"
    if not found:
        raise ConfigError(told)
    return told


def _ideal(metric: str, split: Split, texts: Sequence[str] | None = None) -> float:
    """What answers score, each the first reference of its row if not told; 0 if nobody can tell."""
    texts = texts or [references[0] for references in split.answers]
    scores = scores_of([metric], losses=(), texts=texts, references=split.answers)
    return scores[metric].value if metric in scores else 0.0


def _any_of(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
