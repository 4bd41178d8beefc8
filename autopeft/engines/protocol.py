"""What driver and worker say to each other: JSON, one message at a time, checked at both ends."""

from multiprocessing.connection import Connection
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, TypeAdapter

from autopeft.engines.work import CohortSize, Decided, Facts, Work
from autopeft.records import FailureKind
from autopeft.space.costs import CostModel
from autopeft.space.spec import Strict
from autopeft.training.settings import TrainingSettings


class Load(Strict):
    """Load model and data; answered by `Loaded`. This is worker `index` of so many."""

    kind: Literal["load"] = "load"
    work: Work
    index: int
    workers: int


class Decide(Strict):
    """Measure how to compute; answered by `Decision`."""

    kind: Literal["decide"] = "decide"
    genotypes: tuple[dict[str, Any], ...]
    cohort: CohortSize


class Calibrate(Strict):
    """Measure what genotypes cost alone; answered by `Calibrated`."""

    kind: Literal["calibrate"] = "calibrate"
    settings: TrainingSettings
    genotypes: tuple[dict[str, Any], ...]


class Begin(Strict):
    """Get ready for jobs; not answered. If `fitting`, cohorts are split to fit the device."""

    kind: Literal["begin"] = "begin"
    decided: Decided
    folder: Path
    fitting: bool = False


class Run(Strict):
    """Run a job; answered by `Step` and `Measured`, then by `Done` or `Failed`."""

    kind: Literal["run"] = "run"
    job: dict[str, Any]
    wanted: frozenset[int]


class Loaded(Strict):
    """Model and data are there."""

    kind: Literal["loaded"] = "loaded"
    facts: Facts


class Decision(Strict):
    """How to compute."""

    kind: Literal["decision"] = "decision"
    decided: Decided


class Calibrated(Strict):
    """What predicts the costs."""

    kind: Literal["calibrated"] = "calibrated"
    costs: CostModel


class Step(Strict):
    """A sign of life: a step was done, or some rows were scored."""

    kind: Literal["step"] = "step"
    step: int
    steps: int


class Measured(Strict):
    """A trial is done."""

    kind: Literal["measured"] = "measured"
    record: dict[str, Any]


class Done(Strict):
    """The job is done."""

    kind: Literal["done"] = "done"


class Failed(Strict):
    """The job ended by an exception, which is one of its trials' alone."""

    kind: Literal["failed"] = "failed"
    failure: FailureKind
    message: str


class Refused(Strict):
    """The study cannot go on; `error` is the name of a class of `autopeft.errors`."""

    kind: Literal["refused"] = "refused"
    error: str
    message: str


Request = Load | Decide | Calibrate | Begin | Run
Reply = Loaded | Decision | Calibrated | Step | Measured | Done | Failed | Refused

_REQUEST: TypeAdapter[Request] = TypeAdapter(Annotated[Request, Field(discriminator="kind")])
_REPLY: TypeAdapter[Reply] = TypeAdapter(Annotated[Reply, Field(discriminator="kind")])


def send(connection: "Connection[Any, Any]", message: Request | Reply) -> None:
    """Send one message.

    Raises:
        OSError: nobody is there.
    """
    connection.send_bytes(message.model_dump_json().encode())


def receive_request(connection: "Connection[Any, Any]") -> Request:
    """The next request.

    Raises:
        EOFError: the driver is gone.
    """
    return _REQUEST.validate_json(connection.recv_bytes())


def receive_reply(connection: "Connection[Any, Any]") -> Reply:
    """The next reply.

    Raises:
        EOFError: the worker is gone.
        ValueError: this is no reply.
    """
    return _REPLY.validate_json(connection.recv_bytes())
