"""The Ray engine on a cluster of this machine: what it measures is what the driver would."""

import pytest
from study_factory import results, weights

from autopeft.study.events import Silent
from autopeft.study.search import run_search

pytestmark = pytest.mark.ray


def on_ray(spec, **engine):
    values = {"kind": "ray", "address": "local", "workers": 1, **engine}
    return spec.model_copy(update={"engine": type(spec.engine).model_validate(values)})


def test_stations_measure_what_the_driver_would_measure(done, spec_of, tmp_path):
    seen = []

    class Steps(Silent):
        def stepped(self, trials, step, steps):
            seen.append((trials, step, steps))

    study = run_search(on_ray(spec_of()), tmp_path / "study", watcher=Steps())
    assert results(study) == results(done)
    assert weights(study) == weights(done)
    assert study.front() == done.front()
