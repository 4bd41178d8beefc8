"""A valid record, to be changed in one place by each test."""

from typing import Any

from autopeft.records import Failure, Metric, Objective, Record


def make_record(**changes: Any) -> Record:
    values: dict[str, Any] = {
        "version": 1,
        "trial": 3,
        "rung": 1,
        "replicate": 0,
        "state": "complete",
        "genotype": {
            "version": 1,
            "n_layers": 2,
            "ops": [{"form": "low_rank", "read": "attn_in", "write": "q", "sizes": [4, 0]}],
            "training": {"learning_rate": 1e-4, "weight_decay": 0.0},
        },
        "hash": "0123456789abcdef",
        "seed": 0,
        "metrics": {"accuracy": Metric(0.875, 0.0125), "f1": Metric(0.1 + 0.2, 0.0)},
        "objectives": {
            "latency_ms": Objective(3.25, "ms", 0.5),
            "peak_memory_bytes": Objective(1e9, "B", None),
        },
        "trainable_params": 6144,
        "fraction": 6144 / 22_713_216,
        "head_params": 770,
        "steps": 189,
        "seconds": 12.5,
        "started": "2026-01-31T12:00:00.250000+00:00",
        "worker": "local-0",
        "cohort": (3, 4),
        "precision": "fp32",
        "split": "validation",
        "failure": None,
        "weights": "weights/000003-1-0.safetensors",
        "weights_sha256": "5e" * 32,
    }
    return Record(**(values | changes))


def make_failure(kind: Any = "nan", **changes: Any) -> Record:
    failed = {
        "state": "failed",
        "metrics": {},
        "weights": None,
        "weights_sha256": None,
        "failure": Failure(kind, "no"),
    }
    return make_record(**(failed | changes))
