"""The answer in words, and how far it can be trusted."""

import math
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from statistics import NormalDist
from typing import Any, Literal

from autopeft.advice import Advice
from autopeft.constant import Constant
from autopeft.dashboard.trials import TrialInfo
from autopeft.front import Front
from autopeft.selection import LEVEL, Selection, which_rows
from autopeft.space.words import FROZEN

Tone = Literal["gain", "tie", "none"]


@dataclass(frozen=True)
class Verdict:
    """What to do and why.

    Attributes:
        headline: the answer.
        answer: the recommended trial in words, or nothing.
        points: sentences that say how good it is, against what, and how sure.
        tone: "gain" if something beats LoRA beyond noise, "tie" if nothing does, "none" if that
            was not compared.
        trial: the recommended one, or None.
        quality: of the recommended one, on the most honest rows there are; None without it.
        stderr: of `quality`; None without it.
        scored_on: which rows `quality` is of, where the search did not select on them.
        winners: trials that beat LoRA beyond noise at no more parameters than it has.
        loras: the LoRA that was to be beaten: one trial, or one for each size.
    """

    headline: str
    answer: str
    points: tuple[str, ...]
    tone: Tone
    trial: int | None
    quality: float | None = None
    stderr: float | None = None
    scored_on: str = ""
    winners: tuple[int, ...] = ()
    loras: tuple[int, ...] = ()


def verdict_of(
    trials: Sequence[TrialInfo],
    *,
    front: Front | None,
    advice: Advice,
    rows: int | None,
    selection: Selection | None,
    openings: Sequence[Mapping[str, Any]],
    constant: Constant | None = None,
    short: str | None = None,
) -> Verdict:
    """The verdict on a study.

    Args:
        trials: all of them.
        front: of the study; None before the first record.
        advice: what to use of it.
        rows: that the search scored on, if known.
        selection: the final selection on fresh rows, if there was one.
        openings: of the test split, oldest first.
        constant: what one answer to every row scores, if known.
        short: that what is recommended was trained in part, if so.
    """
    if selection is not None:
        return _selected(selection, advice, rows, openings)
    by_trial = {trial.trial: trial for trial in trials}
    if advice.nothing_learnt is not None:
        return _nothing_learnt([advice.nothing_learnt, _caveat(rows), *_tested(openings, None)])
    if front is None or advice.trial is None or front.best is None:
        return _without_result(trials)
    chosen, best = by_trial[advice.trial], by_trial[front.best.trial]
    if chosen.quality is None:
        return _without_result(trials)
    points = [_scored(chosen, best, front.judged)]
    if short is not None:
        points.append(f"{short[:1].upper()}{short[1:]}.")
    against = _against_lora(trials, [by_trial[point.trial] for point in front.points])
    points.append(against.told)
    heads = [t for t in trials if t.method in {"head", FROZEN} and t.quality is not None]
    if chosen not in heads and heads:
        head = max(heads, key=lambda t: t.quality or 0)
        gain = chosen.quality - (head.quality or 0)
        what = f"The {head.method} alone reaches {head.quality:.4f}"
        points.append(f"{what}; the ops add {_signed(gain)}.")
    if constant and constant.value:
        points.append(f"{constant.told}.")
    points.append(_caveat(rows))
    points += _tested(openings, chosen.trial)
    return Verdict(
        headline=f"Use trial {chosen.trial}",
        answer=chosen.summary,
        points=tuple(points),
        tone=against.tone,
        trial=chosen.trial,
        quality=chosen.quality,
        stderr=chosen.stderr,
        winners=against.winners,
        loras=against.loras,
    )


def _selected(
    selection: Selection,
    advice: Advice,
    rows: int | None,
    openings: Sequence[Mapping[str, Any]],
) -> Verdict:
    """The verdict of a final selection, which has rows and seeds of its own."""
    chosen = selection.contender(selection.recommended)
    how_sure = (
        f"{chosen.seeds} trainings with fresh seeds on {selection.which_rows}; 95 % interval "
        f"{chosen.low:.4f} to {chosen.high:.4f}."
    )
    caveat = _caveat(rows, "Scores of the front and of the trials")
    points = [selection.verdict, how_sure, " ".join(filter(None, (caveat, selection.flattery)))]
    points += [f"{note[:1].upper()}{note[1:]}." for note in selection.notes]
    points += _tested(openings, chosen.trial)
    if advice.nothing_learnt is not None:
        return _nothing_learnt([advice.nothing_learnt, *points])
    compared = selection.within_size
    winners = tuple(c.trial for c in compared if c.beats)
    baselines = {c.baseline for c in compared}
    tuned = {c.trial for c in selection.contenders if c.role == "lora"}
    return Verdict(
        headline=f"Use trial {chosen.trial}",
        answer=chosen.summary,
        points=tuple(points),
        tone="gain" if winners else "tie" if compared else "none",
        trial=chosen.trial,
        quality=chosen.quality,
        stderr=chosen.stderr,
        scored_on=f"{selection.rows:,} {_kind_of(selection)}rows",
        winners=winners,
        loras=tuple(sorted(baselines or tuned)),
    )


def _kind_of(selection: Selection) -> str:
    if selection.folds:
        return "left out "
    return "" if selection.seen else "unseen "


def _nothing_learnt(points: Sequence[str]) -> Verdict:
    return Verdict("Nothing has been learnt yet", "", tuple(points), "none", None)


def _without_result(trials: Sequence[TrialInfo]) -> Verdict:
    if not trials:
        return Verdict("Nothing has been measured yet", "", (), "none", None)
    causes = Counter(trial.failure for trial in trials if trial.failure)
    if not causes or any(trial.state == "stopped early" for trial in trials):
        return Verdict("Nothing within the budget has a score yet", "", (), "none", None)
    told = ", ".join(f"{kind.replace('_', ' ')} {n} times" for kind, n in causes.most_common())
    count = f"All {len(trials)} trials" if len(trials) > 1 else "The only trial"
    return Verdict(f"{count} failed", "", (f"Causes: {told}.",), "none", None)


def _scored(chosen: TrialInfo, best: TrialInfo, judged: str) -> str:
    if best.trial == chosen.trial:
        return (
            f"It is the best of the front{judged}, and nothing cheaper is within its standard "
            "error."
        )
    return (
        f"It is the cheapest trial within one standard error of the best (trial {best.trial}: "
        f"{best.quality:.4f} with {best.params:,} parameters){judged}."
    )


@dataclass(frozen=True)
class _Against:
    """How the front stands against LoRA: the fields of a `Verdict`, and a sentence."""

    tone: Tone
    told: str
    loras: tuple[int, ...] = ()
    winners: tuple[int, ...] = ()


def _against_lora(trials: Sequence[TrialInfo], front: Sequence[TrialInfo]) -> _Against:
    """Compare the front with the best LoRA at no more parameters than it has.

    A score is better beyond noise if the difference exceeds what a normal variable of the summed
    variances exceeds in 5 % of all cases, divided among the comparisons (Bonferroni): the level of
    the final selection and of what beats a constant. The rows are the same for both, so the true
    noise is less; selection is not corrected for.
    """
    tried = [t for t in trials if t.is_lora and t.quality is not None and t.state != "over budget"]
    if not tried:
        is_early = any(t.is_lora and t.state == "stopped early" for t in trials)
        what = "trained to its end" if is_early else "tried"
        told = f"LoRA alone was not {what} here, so nothing can be said against it."
        return _Against("none", told)
    lora = max(tried, key=lambda trial: trial.quality or 0)
    settings = f"the best of {len(tried)} settings" if len(tried) > 1 else "in a single setting"
    name = (
        f"LoRA alone (trial {lora.trial}, {settings}: {lora.quality:.4f} ± {lora.stderr:.4f} with "
        f"{lora.params:,} parameters)"
    )
    rivals = [t for t in front if t.params <= lora.params and t.trial != lora.trial]
    if not rivals:
        told = f"Nothing on the front with as few parameters can be set against {name}."
        return _Against("tie", told, (lora.trial,))
    z = NormalDist().inv_cdf(1 - LEVEL / len(rivals))
    winners = [t for t in rivals if _difference(t, lora) > z * _noise(t, lora)]
    if winners:
        numbers = ", ".join(str(trial.trial) for trial in winners)
        who = f"Trials {numbers} score" if len(winners) > 1 else f"Trial {numbers} scores"
        top = max(_difference(trial, lora) for trial in winners)
        told = (
            f"{who} higher than {name} at no more parameters, by up to {top:.4f}: more than the "
            "noise of the rows explains."
        )
        return _Against("gain", told, (lora.trial,), tuple(trial.trial for trial in winners))
    closest = max(rivals, key=lambda t: _difference(t, lora))
    told = (
        f"Nothing with as few parameters beats {name} beyond noise: trial {closest.trial} differs "
        f"by {_signed(_difference(closest, lora))} ± {_noise(closest, lora):.4f}."
    )
    return _Against("tie", told, (lora.trial,))


def _signed(value: float) -> str:
    return f"{value:+.4f}".replace("-", "\N{MINUS SIGN}")


def _difference(one: TrialInfo, two: TrialInfo) -> float:
    return (one.quality or 0) - (two.quality or 0)


def _noise(one: TrialInfo, two: TrialInfo) -> float:
    return math.hypot(one.stderr or 0, two.stderr or 0)


def _caveat(rows: int | None, what: str = "All scores") -> str:
    which = f"the {rows:,} rows" if rows else "the rows"
    return (
        f"{what} are on {which} that the search selected on, so they flatter the winner. "
        "± is one standard error."
    )


def _tested(openings: Sequence[Mapping[str, Any]], recommended: int | None) -> list[str]:
    """What the first look at the test split found for what is recommended, if there was one.

    A study that went on may recommend another trial than those that were tested: then the last.
    """
    if not openings:
        return []
    about = [i for i, opening in enumerate(openings) if recommended in _tested_as_best(opening)]
    never = recommended is not None and not about
    nth = len(openings) - 1 if never else next(iter(about), 0)
    opening = openings[nth]
    metric = opening.get("metric")
    told = [
        f"{item['role']} (trial {item['trial']}) {score['value']:.4f} ± {score['stderr']:.4f}"
        for item in opening.get("results", ())
        if (score := item.get("metrics", {}).get(metric))
    ]
    if not told:
        return []
    where = f"On {which_rows(opening['rows'], 'test rows', opening.get('seen', 0))}"
    if nth > 0:
        where = f"At look {nth + 1} at {opening['rows']:,} test rows"
    end = f" Trial {recommended} has not been tested." if never else ""
    return [f"{where}: {', '.join(told)}.{end}"]


def _tested_as_best(opening: Mapping[str, Any]) -> set[int]:
    results = opening.get("results", ())
    return {item["trial"] for item in results if item["role"] == "recommended"}
