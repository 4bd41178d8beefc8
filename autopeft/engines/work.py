"""What a worker loads, and what it says of what it loaded. No torch: the driver has none."""

from dataclasses import replace
from typing import Any, Literal

from autopeft.constant import Constant
from autopeft.errors import ConfigError
from autopeft.model.computing import Precision, Scheme
from autopeft.objectives import PARAMS, CostName
from autopeft.row_scores import RowScores
from autopeft.space.costs import CostModel
from autopeft.space.shape import ModelShape
from autopeft.space.spec import Strict
from autopeft.tasks.spec import LANGUAGE, DataSpec, GenerationSpec, Kind, Unseen
from autopeft.training.settings import TrainingSettings
from autopeft.training.spec import TrainingSpec


class Work(Strict):
    """All of a study that its measurements depend on, genotypes aside.

    Attributes:
        model: Hub name or absolute path.
        quantize: how the weight matrices of its layers are kept in few bits; None for as they are.
        task: the kind of task.
        metric: what the study optimises; a function with the absolute path of its file.
        positive: the class that F1 is of, where there are two; the second if None.
        costs: what it optimises beside.
        max_memory: hard limit in bytes on what training alone may take, or None.
        data: where the rows are, in absolute paths.
        training: how trials are trained.
        seed: of the study.
        generation: how answers are written, where they are texts.
        rung_metric: what trials are measured by that pause at a rung; the metric if None.
    """

    model: str
    quantize: Scheme | None = None
    task: Kind
    metric: str
    positive: str | None = None
    costs: tuple[CostName, ...] = (PARAMS,)
    max_memory: int | None = None
    data: DataSpec
    training: TrainingSpec
    seed: int
    generation: GenerationSpec | None = None
    rung_metric: str | None = None

    @property
    def lengths(self) -> tuple[int, int]:
        """The longest row that is read, and the longest that a decoder beside an encoder reads."""
        longest = self.training.max_length
        if self.task not in LANGUAGE:
            return longest, longest
        answer = (self.generation or GenerationSpec()).max_target_length
        return (longest, answer) if self.task == "seq2seq" else (longest + answer, 0)

    def room(self, n_positions: int) -> int:
        """Tokens that rows can be longer by than the longest one, also while it is written."""
        n_read = self.lengths[0]
        if self.task == "causal" and self.generation is not None:
            n_read = max(n_read, self.training.max_length + self.generation.n_new)
        return max(0, n_positions - n_read)

    def check_writing(self, longest_row: int) -> None:
        """Refuse answers whose end the model would have no position for.

        Args:
            longest_row: tokens that the model reads; a decoder reads its answer behind the text.

        Raises:
            ConfigError: `generation.max_new_tokens` is too large.
        """
        if self.generation is None or self.task not in LANGUAGE:
            return
        n_read = self.training.max_length if self.task == "causal" else 0
        n_new, most = self.generation.n_new, longest_row - n_read
        if n_new > most:
            behind = f" behind max_length: {n_read}" if n_read else ""
            raise ConfigError(
                f"generation.max_new_tokens: {n_new}{behind} is more than the model has positions "
                f"for; at most {max(0, most)}"
            )


class Facts(Strict):
    """What was found when the work was loaded.

    Attributes:
        model_shape: `ModelShape.to_dict()`.
        model: its name.
        revision: its commit on the Hub, None for a folder.
        model_hash: SHA-256 of the pretrained weights.
        data_hash: SHA-256 of all rows.
        reading_hash: SHA-256 of what decides beside weights and rows how the model reads them: its
            configuration and the tokens of the rows.
        n_rows: of each split.
        unseen: what the final selection scores on; None if the study file wants nothing, or if
            there are too few rows.
        labels: the classes, by number.
        notes: what the user has to be told of model and data.
        device: that trains.
        n_devices: of this kind that could train; 1 on a CPU.
        metric_hash: SHA-256 of the file whose function is the metric, if it is one.
        constant: what one answer to every validation row scores, where that can be told.
        constant_rows: what one answer adds to the metric at each row that the final selection
            scores: of the selection split, or of each fold.
        other_answers: why scores of the search and of the final selection do not compare, if so.
        room: tokens that the longest row leaves of the model's positions; None if they are endless.
        answered: rows hold the answers, as a decoder's do.
        head_hash: SHA-256 of the head that the checkpoint brought, as trials begin with it; None if
            it brought none.
        head_is_changed: it does not begin as it lies in the checkpoint.
        seen: rows of the selection split with a text of train or validation.
    """

    model_shape: dict[str, Any]
    model: str
    revision: str | None
    model_hash: str
    data_hash: str
    reading_hash: str
    n_rows: dict[str, int]
    unseen: Unseen | None
    labels: tuple[str, ...]
    notes: tuple[str, ...]
    device: str
    n_devices: int
    metric_hash: str | None = None
    constant: Constant | None = None
    constant_rows: tuple[RowScores, ...] = ()
    other_answers: str | None = None
    room: int | None = None
    answered: bool = False
    head_hash: str | None = None
    head_is_changed: bool = False
    seen: int = 0

    @property
    def shape(self) -> ModelShape:
        """What a search space needs to know of the model, in this study."""
        shape = ModelShape.from_dict(self.model_shape)
        return replace(shape, room=self.room, answered=self.answered)

    @property
    def backbone_params(self) -> int:
        """Parameters of the model without its head."""
        return self.shape.backbone_params

    def differs_from(self, other: "Facts") -> str | None:
        """What makes measurements here other ones than there, in words; None if nothing does."""
        told = (
            (("model_hash", "reading_hash", "model_shape", "head_hash"), "another model"),
            (("data_hash", "labels"), "other rows"),
            (("metric_hash",), "another file of the metric"),
        )
        for names, what in told:
            if any(getattr(self, name) != getattr(other, name) for name in names):
                return what
        return None


class Decided(Strict):
    """How a study is computed, decided once.

    Attributes:
        settings: of training, complete.
        cohort: trials trained together.
        trial_seconds: expected for one trial, evaluation included.
        trial_bytes: memory that each trial of a cohort takes.
        costs: predicts what trials cost, if the study has to know.
    """

    settings: TrainingSettings
    cohort: int
    trial_seconds: float
    trial_bytes: int
    costs: CostModel | None = None

    @property
    def precision(self) -> Precision:
        """Of the products."""
        return self.settings.precision


CohortSize = int | Literal["auto"]
"""Trials to train together, or "auto" for as many as are fast and fit into memory."""
