"""The tiny model, text and study, and trials that take a second."""

import pytest
from study_factory import checkpoint, data_folder, done, spec_of

from autopeft.engines import workbench
from autopeft.engines.work import Decided
from autopeft.training.train import train_cohort

__all__ = ["checkpoint", "data_folder", "done", "spec_of"]


@pytest.fixture
def metered(monkeypatch):
    """Every trial takes a second, by the probe and by the clock."""

    def train(backbone, genotypes, *args, **more):
        trained, _ = train_cohort(backbone, genotypes, *args, **more)
        return trained, float(len(genotypes))

    def decide(ground, *_):
        return Decided(settings=ground.settings, cohort=4, trial_seconds=1.0, trial_bytes=2**20)

    monkeypatch.setattr(workbench, "train_cohort", train)
    monkeypatch.setattr(workbench, "decide", decide)
