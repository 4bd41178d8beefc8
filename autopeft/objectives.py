"""What a study optimises, with units and directions."""

from collections.abc import Mapping

from autopeft.records import Metric, Objective

PARAMS = "trainable_params"
"""Parameters of the ops, the head left aside; smaller is better."""


def objectives_of(
    metric: str, metrics: Mapping[str, Metric], op_params: int
) -> dict[str, Objective]:
    """The objectives of a trial: its metric (larger is better) and its trainable parameters.

    Args:
        metric: the one that the study optimises.
        metrics: all that were measured.
        op_params: parameters of the ops.
    """
    quality = metrics[metric]
    return {
        metric: Objective(quality.value, "1", quality.stderr),
        PARAMS: Objective(float(op_params), "parameters", None),
    }
