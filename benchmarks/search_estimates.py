"""What is picked from a study by raw, pooled and shrunken scores, and its worth on test rows."""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from scipy import stats
from search_bench import METRIC, Scored
from search_features import features
from search_shrink import Score, Shrunken, shrink

from autopeft.records import Record
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.shape import ModelShape


def regrets(
    studies: Sequence[Sequence[Record]], table: Mapping[tuple[str, int], Scored], shape: ModelShape
) -> dict[str, Any]:
    """How far what is picked stays behind the best of the table, on test rows, fully trained.

    Args:
        studies: the records of each.
        table: by genotype and steps.
        shape: of the model.

    Returns:
        For the best score and for the cheapest within one standard error of it, by raw, pooled and
        shrunken scores: the mean regret with its standard error, and the paired differences to
        raw scores. And Kendall's tau of each with the test scores.
    """
    top = max(steps for _, steps in table)
    truth = {key: item.test_quality for (key, steps), item in table.items() if steps == top}
    best = max(truth.values())
    lost: dict[tuple[str, str], list[float]] = {}
    agreement: dict[str, list[float]] = {"raw": [], "pooled": [], "shrunken": []}
    for records in studies:
        raw, hashes, params = _raw(records), {}, {}
        for record in records:
            hashes[record.trial], params[record.trial] = record.hash, record.trainable_params
        scores = {
            "raw": raw,
            "pooled": _pooled(records),
            "shrunken": shrink(scores_of(records, shape)),
        }
        for name, found in scores.items():
            for rule, trial in (("best", _best(found)), ("cheapest", _cheapest(found, params))):
                lost.setdefault((rule, name), []).append(best - truth[hashes[trial]])
            trials = sorted(found)
            agreement[name].append(
                stats.kendalltau(
                    [found[trial].value for trial in trials],
                    [truth[hashes[trial]] for trial in trials],
                ).statistic
            )
    result: dict[str, Any] = {"tau_with_test": {k: _told(v) for k, v in agreement.items()}}
    for rule in ("best", "cheapest"):
        raw_lost = np.array(lost[rule, "raw"])
        result[rule] = {"raw": _told(raw_lost)}
        for name in ("pooled", "shrunken"):
            other = np.array(lost[rule, name])
            result[rule] |= {name: _told(other), f"raw_minus_{name}": _told(raw_lost - other)}
    return result


def scores_of(records: Sequence[Record], shape: ModelShape) -> list[Score]:
    """What `shrink` takes."""
    return [
        Score(
            record.trial,
            record.rung,
            features(genotype_from_dict(record.genotype), shape),
            record.metrics[METRIC].value,
            record.metrics[METRIC].stderr,
        )
        for record in records
        if record.state == "complete"
    ]


def _raw(records: Sequence[Record]) -> dict[int, Shrunken]:
    """Each trial's score at its highest rung."""
    ordered = sorted(records, key=lambda record: record.rung)
    return {r.trial: Shrunken(r.metrics[METRIC].value, r.metrics[METRIC].stderr) for r in ordered}


def _pooled(records: Sequence[Record]) -> dict[int, Shrunken]:
    """Each trial's mean score over its rungs, those below moved by what trials gained from there.

    The rows are the same at every rung, so the standard error stays what it is at the highest.
    """
    by_trial: dict[int, list[Record]] = {}
    for record in sorted(records, key=lambda record: record.rung):
        by_trial.setdefault(record.trial, []).append(record)
    values = [[r.metrics[METRIC].value for r in own] for own in by_trial.values()]
    gains: dict[tuple[int, int], list[float]] = {}
    for own in values:
        for rung, value in enumerate(own):
            gains.setdefault((len(own) - 1, rung), []).append(own[-1] - value)
    moved = {key: float(np.mean(gain)) for key, gain in gains.items()}
    return {
        trial: Shrunken(
            float(np.mean([v + moved[len(own) - 1, rung] for rung, v in enumerate(own)])),
            by_trial[trial][-1].metrics[METRIC].stderr,
        )
        for trial, own in zip(by_trial, values, strict=True)
    }


def _best(found: Mapping[int, Shrunken]) -> int:
    return max(sorted(found), key=lambda trial: found[trial].value)


def _cheapest(found: Mapping[int, Shrunken], params: Mapping[int, int]) -> int:
    best = found[_best(found)]
    near = [trial for trial in sorted(found) if found[trial].value >= best.value - best.stderr]
    return min(near, key=lambda trial: params[trial])


def _told(values: Sequence[float] | np.ndarray[Any, Any]) -> dict[str, float]:
    return {"mean": float(np.mean(values)), "stderr": float(stats.sem(values))}
