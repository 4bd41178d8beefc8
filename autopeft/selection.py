"""Selection: contenders trained anew and scored on rows that the search has not seen; the verdict.

Reading one needs neither numpy nor torch. `study/select.py` makes it.
"""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from autopeft.constant import Constant
from autopeft.records import Objective

LEVEL = 0.05
"""Chance that something is said to beat LoRA where nothing does."""

Role = Literal["recommended", "front", "lora", "head", "full", "method"]
_IN_WORDS: Mapping[Role, str] = {
    "recommended": "search's choice",
    "front": "front",
    "lora": "tuned LoRA",
    "full": "all weights",
    "method": "tuned method",
}


@dataclass(frozen=True)
class Contender:
    """A trial of the final selection.

    Attributes:
        trial: its number in the study.
        role: why it is there: what the search recommends, another point of its front, its best
            LoRA, the head alone, full fine-tuning, or its best genotype of another single method.
        trainable_params: of its ops.
        fraction: `trainable_params` over the parameters of the backbone.
        summary: the genotype in words.
        search_quality: the metric on the rows that the search selected on; None if the search had
            stopped it early, before that was measured.
        quality: the metric on the selection rows, mean over fresh seeds.
        stderr: of `quality`, over new seeds and new rows.
        low: lower end of the 95 % interval, not beyond what the metric can be.
        high: upper end, likewise.
        seeds: trainings that `quality` is the mean of.
        costs: what else the study optimises beside parameters, measured where it had been
            predicted; as predicted if the training that was to be measured failed by accident.
    """

    trial: int
    role: Role
    trainable_params: int
    fraction: float
    summary: str
    search_quality: float | None
    quality: float
    stderr: float
    low: float
    high: float
    seeds: int
    costs: Mapping[str, Objective] = field(default_factory=dict)

    @property
    def role_in_words(self) -> str:
        """Its role; of one without ops what it is: head only, or frozen backbone."""
        return _IN_WORDS.get(self.role, self.summary)

    @property
    def drop(self) -> float | None:
        """How much the search flattered it."""
        return None if self.search_quality is None else self.search_quality - self.quality


@dataclass(frozen=True)
class Comparison:
    """A contender against LoRA.

    Attributes:
        trial: of the contender, which is no LoRA.
        baseline: trial of the LoRA that the search thought best, of those in the selection that
            have at least as many parameters; of all, where none has.
        difference: of the metric, positive where the contender is better.
        low: lower end of the 95 % interval of this difference alone.
        high: upper end.
        p_value: of "not better", corrected for all comparisons of the selection.
    """

    trial: int
    baseline: int
    difference: float
    low: float
    high: float
    p_value: float

    @property
    def beats(self) -> bool:
        """Better beyond noise."""
        return self.p_value < LEVEL


@dataclass(frozen=True)
class Lead:
    """The best candidate against one answer to every row, the best for these very rows.

    Attributes:
        constant: what the answer scores.
        difference: of the metric, positive where the candidate is better.
        low: lower end of the 95 % interval of this difference alone.
        high: upper end.
        p_value: of "not better", corrected for all candidates (Bonferroni).
    """

    constant: float
    difference: float
    low: float
    high: float
    p_value: float


@dataclass(frozen=True)
class Selection:
    """What the final selection found.

    Attributes:
        metric: the name of the quality.
        rows: of the selection split.
        contenders: by ascending trainable parameters.
        comparisons: with tuned LoRA, by ascending p-value.
        recommended: trial of the cheapest contender within one standard error of the best; with
            several costs, of that with the least mean of them, each on its axis, which ends at
            the largest. Full fine-tuning is a baseline and no candidate.
        notes: what has to be known beside, a sentence each.
        search_compares: scores of the search are of rows like these, so that they can be set
            against one another.
        folds: the rows are parts of the training rows, each left out of a training of its own.
        seen: rows with a text that is also among those of the search.
        lead: over one answer to every row; None where that cannot be told, or is of before.
    """

    metric: str
    rows: int
    contenders: tuple[Contender, ...]
    comparisons: tuple[Comparison, ...]
    recommended: int
    notes: tuple[str, ...] = ()
    search_compares: bool = True
    folds: bool = False
    seen: int = 0
    lead: Lead | None = None

    def contender(self, trial: int) -> Contender:
        """The one of this number."""
        return next(item for item in self.contenders if item.trial == trial)

    def beats(self, constant: Constant) -> bool:
        """Whether the best candidate is better than one answer to every row, beyond noise.

        Args:
            constant: what that scores on the rows of the search, where `lead` is not known.
        """
        if self.lead is not None:
            return self.lead.p_value < LEVEL
        found = candidates(self.contenders)
        best = best_of(found)
        return constant.is_beaten(best.quality, best.stderr, len(found))

    @property
    def which_rows(self) -> str:
        """What was scored, in words."""
        if self.folds:
            return f"{self.rows:,} training rows, each left out of the training that it scores"
        return which_rows(self.rows, "rows", self.seen)

    @property
    def verdict(self) -> str:
        """Whether anything beats tuned LoRA at equal or fewer parameters, in words.

        And whether what is larger than every LoRA does, and what full fine-tuning comes to, if
        they were there.
        """
        told = (self._against_lora, self._larger_ones, self._beside_full)
        return " ".join(filter(None, told))

    @property
    def _beside_full(self) -> str:
        full = next((item for item in self.contenders if item.role == "full"), None)
        if full is None:
            return ""
        chosen = self.contender(self.recommended)
        return (
            f"Full fine-tuning, {full.trainable_params:,} parameters, comes to {full.quality:.4f} "
            f"(95 % interval {full.low:.4f} to {full.high:.4f}); trial {chosen.trial} with "
            f"{chosen.trainable_params:,} to {chosen.quality:.4f}."
        )

    @property
    def within_size(self) -> list[Comparison]:
        """The comparisons with a LoRA that has at least as many parameters."""
        return [item for item in self.comparisons if not self._is_larger(item)]

    def _is_larger(self, item: Comparison) -> bool:
        size, of_lora = map(self.contender, (item.trial, item.baseline))
        return size.trainable_params > of_lora.trainable_params

    @property
    def _against_lora(self) -> str:
        if all(item.role != "lora" for item in self.contenders):
            return "There is no tuned LoRA to compare with."
        if not self.within_size:
            heads = [item for item in self.contenders if item.role == "head"]
            named = " and ".join(f'"{item.summary}" ({item.quality:.4f})' for item in heads)
            what = f"Nothing but {named}" if heads else "Nothing else"
            return f"{what} was tried again at as few parameters as tuned LoRA has."
        named, winners, nearest = self._told(self.within_size)
        if winners:
            return f"At equal or fewer parameters {winners}."
        return (
            f"Nothing beats {named} here at equal or fewer parameters beyond noise; the nearest is "
            f"{nearest}."
        )

    @property
    def _larger_ones(self) -> str:
        """What is larger than every LoRA, against the best of these: whether more is better."""
        larger = [item for item in self.comparisons if self._is_larger(item)]
        if not larger:
            return ""
        named, winners, nearest = self._told(larger)
        nothing = f"nothing beats {named} beyond noise; the nearest is {nearest}"
        return f"Of what is larger than every LoRA that was tried again {winners or nothing}."

    def _told(self, comparisons: Sequence[Comparison]) -> tuple[str, str, str]:
        """The LoRA of comparisons, what beats it, if anything does, and what is nearest to that."""
        size = {item.trial: f"{item.trainable_params:,} parameters" for item in self.contenders}
        one, *more = {item.baseline for item in comparisons}
        role = "tuned LoRA" if more or self.contender(one).role == "lora" else "LoRA"
        named = role if more else f"{role} (trial {one}, {size[one]})"

        def told(item: Comparison) -> str:
            own = f" ({size[item.trial]})" if self._is_larger(item) else ""
            against = f" against trial {item.baseline} ({size[item.baseline]})" if more else ""
            return f"trial {item.trial}{own} {_by(item)}{against}"

        beating = [item for item in comparisons if item.beats]
        verb = "this beats" if len(beating) == 1 else "these beat"
        winners = f"{verb} {named}: {', '.join(map(told, beating))}" if beating else ""
        return named, winners, told(max(comparisons, key=lambda item: item.difference))

    @property
    def drop(self) -> float | None:
        """Mean of what the search's scores of its front lost; None if that cannot be told."""
        if not self.search_compares:
            return None
        of_front = [c.drop for c in self.contenders if c.role in {"recommended", "front"}]
        drops = [drop for drop in of_front if drop is not None]
        return sum(drops) / len(drops) if drops else None

    @property
    def flattery(self) -> str:
        """`drop` in words; nothing where it cannot be told."""
        if (drop := self.drop) is None:
            return ""
        how = "lower" if drop < 0 else "higher"
        return f"In the search the front scored {abs(drop):.4f} {how} in the mean."


def which_rows(n_rows: int, what: str, seen: int) -> str:
    """Rows that were kept from a search, in words, with how many of them it knew all the same."""
    if not seen:
        return f"{n_rows:,} {what} that the search has not seen"
    return f"{n_rows:,} {what}, {seen:,} of them with a text that the search has seen"


def candidates(contenders: Iterable[Contender]) -> list[Contender]:
    """Those that can be recommended: full fine-tuning is a baseline."""
    return [item for item in contenders if item.role != "full"]


def best_of(contenders: Iterable[Contender]) -> Contender:
    """The one of the highest quality, the first of equals."""
    return max(contenders, key=lambda item: item.quality)


def _by(item: Comparison) -> str:
    return (
        f"by {item.difference:+.4f} (95 % interval {item.low:+.4f} to {item.high:+.4f}, "
        f"p {item.p_value:.2g})"
    )
