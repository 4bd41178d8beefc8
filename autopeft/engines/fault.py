"""Whose fault it is that a trial cannot be trained: its own, or that of what is around it."""

from collections.abc import Iterator
from contextlib import contextmanager

from autopeft.errors import AutopeftError, ConfigError, DataError
from autopeft.training.cohort import Progress


class RefusedTrialError(Exception):
    """A genotype cannot be trained with this model: the trial fails, and the study goes on."""


@contextmanager
def faults_of_trials(progress: Progress | None = None) -> Iterator[Progress]:
    """A block in which nothing is read or written, so that what is refused is the genotype.

    Args:
        progress: of the driver, who may have to end the study while it hears of a step.

    Yields:
        The same, to be called inside.

    Raises:
        RefusedTrialError: a genotype was refused.
    """
    of_the_driver: list[AutopeftError] = []

    def tell(step: int, steps: int) -> None:
        try:
            if progress is not None:
                progress(step, steps)
        except AutopeftError as error:
            of_the_driver.append(error)
            raise

    try:
        yield tell
    except (ConfigError, DataError) as error:
        if error in of_the_driver:
            raise
        raise RefusedTrialError(str(error)) from error
