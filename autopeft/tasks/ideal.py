"""Whether a metric of texts can tell perfect answers from others."""

from collections.abc import Mapping

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


def _ideal(metric: str, split: Split) -> float:
    """What answers score that are, each, the first reference of their row; 0 if nobody can tell."""
    texts = [references[0] for references in split.answers]
    scores = scores_of([metric], losses=(), texts=texts, references=split.answers)
    return scores[metric].value if metric in scores else 0.0


def _any_of(names: list[str]) -> str:
    *first, last = names
    return f"{', '.join(first)} or {last}" if first else last
