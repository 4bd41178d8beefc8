"""A search and a final selection, from scores that a test chooses."""

import numpy as np
from record_factory import make_record

from autopeft.front import front_of, points_of
from autopeft.records import Metric
from autopeft.row_scores import pack
from autopeft.space.genotype import Genotype, Op
from autopeft.study.contenders import contenders

LORA = Op("lowrank", "attn_in", "q", (4, 4))
BESIDE = Op("lowrank", "attn_in", "attn_out", (4, 4))
BITFIT = Op("bias", "q", "q", (1, 1))
ADAPTER = Op("bottleneck", "ffn_out", "ffn_out", (2, 2), "relu")


def genotype(*ops, rate=1e-3):
    return Genotype(2, ops, learning_rate=rate).to_dict()


OPS = {
    "head": (),
    "lora": (LORA,),
    "bias": (BITFIT,),
    "bottleneck": (ADAPTER,),
    "mixed": (LORA, ADAPTER),
}


def searched(*trials, n_before=0):
    """A record of the search for each (kind, quality, parameters), numbered from `n_before`."""
    return [
        make_record(
            trial=i,
            rung=0,
            genotype=genotype(*OPS[kind], rate=(i + 1) / 1000),
            metrics={"accuracy": Metric(score, 0.02)},
            trainable_params=params,
            split="validation",
        )
        for i, (kind, score, params) in enumerate(trials, n_before)
    ]


def selected(trial, scores, search, **changes):
    """Records of the final selection, from scores [seed, row]."""
    return [
        make_record(
            trial=trial,
            rung=2,
            replicate=seed,
            split="selection",
            genotype=search[trial].genotype,
            trainable_params=search[trial].trainable_params,
            metrics={"accuracy": Metric(float(row.mean()), 0.01)},
            row_scores=pack(row),
            **changes,
        )
        for seed, row in enumerate(scores, 1)
    ]


def who(records, most=20):
    front = front_of(records, "accuracy", "maximize", 10_000, str)
    return contenders(points_of(records, "accuracy", 10_000), front, most)


STUDY = searched(
    ("head", 0.60, 0),
    ("lora", 0.80, 1000),
    ("bias", 0.75, 90),
    ("bottleneck", 0.74, 400),
    ("mixed", 0.81, 800),
    ("lora", 0.82, 1200),
    ("mixed", 0.83, 2000),
    ("bottleneck", 0.76, 900),
)


def scores_of(rng, accuracies, rows=400):
    """[seed, row] for each trial; how hard a row is is shared."""
    hard = rng.normal(size=rows)
    return {
        trial: np.array(
            [(0.7 * rng.normal(size=rows) + 0.7 * hard < level).astype(float) for _ in range(3)]
        )
        for trial, level in accuracies.items()
    }
