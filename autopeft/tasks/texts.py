"""How good texts are, from 0 to 1, by sacreBLEU and rouge-score, and what each row adds to it."""

import importlib.util
import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np
from jaxtyping import Float
from numpy.typing import NDArray

from autopeft.tasks.jackknife import pseudo_values

MODULES: Mapping[str, str] = {
    "bleu": "sacrebleu",
    "chrf": "sacrebleu",
    "rouge_1": "rouge_score",
    "rouge_2": "rouge_score",
    "rouge_l": "rouge_score",
}
"""The packages that metrics need."""

References = Sequence[tuple[str, ...]]


@dataclass(frozen=True)
class Scores:
    """A metric of texts.

    Attributes:
        rows: what each row adds; their mean is the metric.
    """

    rows: Float[np.ndarray, " row"]

    @cached_property
    def value(self) -> float:
        """The metric, from 0 to 1, better when higher."""
        return float(self.rows.mean())

    @property
    def stderr(self) -> float:
        """Its standard error over the rows."""
        n_rows = len(self.rows)
        return float(self.rows.std(ddof=1) / math.sqrt(n_rows)) if n_rows > 1 else 0.0


def scores_of(
    names: Sequence[str],
    *,
    losses: Sequence[tuple[float, int]],
    texts: Sequence[str] | None,
    references: References,
) -> dict[str, Scores]:
    """Metrics of what was written.

    Args:
        names: of metrics; those that cannot be told are left out.
        losses: of the tokens of each answer in nats, and their number.
        texts: that were written; None if none were.
        references: to compare them with.
    """
    found = {}
    for name in names:
        if name == "likelihood":
            found[name] = Scores(likelihood(losses))
        elif texts is not None and (name not in MODULES or importlib.util.find_spec(MODULES[name])):
            found[name] = Scores(_OF_TEXTS[name](texts, references))
    return found


def likelihood(losses: Sequence[tuple[float, int]]) -> Float[np.ndarray, " row"]:
    """What each row adds to 1 / perplexity: the geometric mean of the answers' tokens' probability.

    Args:
        losses: of the tokens of each answer in nats, and their number.
    """
    loss, n_tokens = np.asarray(losses, np.float64).T
    if len(loss) == 1:
        return np.asarray(np.exp(-loss / n_tokens))
    without = np.exp(-(loss.sum() - loss) / (n_tokens.sum() - n_tokens))
    return pseudo_values(math.exp(-loss.sum() / n_tokens.sum()), without)


def _bleu(texts: Sequence[str], references: References) -> NDArray[np.float64]:
    """Corpus BLEU (Papineni et al. 2002) as sacreBLEU has it by default (Post 2018)."""
    from sacrebleu.metrics.bleu import BLEU  # noqa: PLC0415  # an extra

    metric = BLEU(effective_order=True)  # of one sentence; its counts are those of a corpus'
    each = [metric.sentence_score(t, list(r)) for t, r in zip(texts, references, strict=True)]
    counts = np.array([[*s.counts, *s.totals, s.sys_len, s.ref_len] for s in each])

    def of(sums: NDArray[np.int64]) -> float:
        matches, totals = sums[:4].tolist(), sums[4:8].tolist()
        found = BLEU.compute_bleu(matches, totals, int(sums[8]), int(sums[9]), smooth_method="exp")
        return float(found.score) / 100

    whole = counts.sum(0)
    if len(each) == 1:
        return np.array([of(whole)])
    return pseudo_values(of(whole), np.array([of(whole - row) for row in counts]))


def _chrf(texts: Sequence[str], references: References) -> NDArray[np.float64]:
    """Corpus chrF (Popovic 2015); each row adds its own, all moved so that their mean is it."""
    from sacrebleu.metrics.chrf import CHRF  # noqa: PLC0415  # an extra

    metric = CHRF()
    pairs = zip(texts, references, strict=True)
    each = np.array([metric.sentence_score(t, list(r)).score for t, r in pairs]) / 100
    most = max(map(len, references))
    # Where a row has fewer references than another, its last one stands there again.
    columns = [[r[min(i, len(r) - 1)] for r in references] for i in range(most)]
    whole = metric.corpus_score(list(texts), columns).score / 100
    return np.asarray(each + (whole - each.mean()), np.float64)


def _rouge(name: str) -> Callable[[Sequence[str], References], NDArray[np.float64]]:
    def of(texts: Sequence[str], references: References) -> NDArray[np.float64]:
        """F-measure (Lin 2004) with stemming, the best over the references."""
        from rouge_score.rouge_scorer import RougeScorer  # noqa: PLC0415  # an extra

        scorer: Any = RougeScorer([name], use_stemmer=True)
        pairs = zip(texts, references, strict=True)
        found = [scorer.score_multi(list(r), t)[name].fmeasure for t, r in pairs]
        return np.array(found, np.float64)  # 0 comes as an integer

    return of


def _exact(texts: Sequence[str], references: References) -> NDArray[np.float64]:
    """1 where what was written is a reference, white space aside."""
    return np.array(
        [
            " ".join(text.split()) in {" ".join(one.split()) for one in some}
            for text, some in zip(texts, references, strict=True)
        ],
        np.float64,
    )


_OF_TEXTS: Mapping[str, Callable[[Sequence[str], References], NDArray[np.float64]]] = {
    "bleu": _bleu,
    "chrf": _chrf,
    "rouge_1": _rouge("rouge1"),
    "rouge_2": _rouge("rouge2"),
    "rouge_l": _rouge("rougeL"),
    "exact_match": _exact,
}
