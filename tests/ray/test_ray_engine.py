"""The Ray engine on a cluster of this machine: what it measures is what the driver would."""

import os
import subprocess
import sys
import time
from contextlib import nullcontext

import pytest
from study_factory import results, weights

from autopeft.engines.inline import InlineEngine
from autopeft.engines.outcome import attempts_of
from autopeft.engines.protocol import Loaded
from autopeft.errors import DataError
from autopeft.study.events import Silent
from autopeft.study.jobs import read_jobs
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


def test_trials_that_pause_go_on_and_are_selected_as_on_one_machine(spec_of, tmp_path):
    """States go to the node and come back."""
    spec = spec_of(trials=30, sampler="random", training={"epochs": 3}, selection={"seeds": 2})
    whole = run_search(spec, tmp_path / "whole")
    assert any(record.rung for record in whole.records())
    assert any(record.replicate for record in whole.records())
    study = run_search(on_ray(spec), tmp_path / "study")
    assert results(study) == results(whole)
    assert weights(study) == weights(whole)
    assert paused(study) == paused(whole)
    assert study.selection() == whole.selection()


def paused(study):
    """The bytes of every state that can be gone on from."""
    return {path.name: path.read_bytes() for path in (study.folder / "paused").iterdir()}


IMPORTED_BEFORE = """
import os
os.environ["RAY_AUTH_TOKEN"] = "0" * 64
import ray
assert ray._raylet.AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True)
del os.environ["RAY_AUTH_TOKEN"]
from autopeft.engines.ray.settings import prepare_environment
prepare_environment("local")
from autopeft.engines.ray.cluster import connected
with connected("local"):
    print([node["NodeManagerAddress"] for node in ray.nodes()])
"""


def test_ray_that_somebody_has_imported_before_asks_for_a_token_on_loopback():
    """Ray reads its environment once; a script or notebook that has begun with Ray is no other."""
    own = {name: value for name, value in os.environ.items() if not name.startswith("RAY_")}
    done = subprocess.run(
        [sys.executable, "-c", IMPORTED_BEFORE], env=own, capture_output=True, text=True, check=True
    )
    assert done.stdout.splitlines()[-1] == "['127.0.0.1']"


def test_cluster_without_room_is_told(spec_of, tmp_path, monkeypatch):
    """A worker for which there would be room, if nobody else had it."""
    from autopeft.engines.ray import engine as module
    from autopeft.engines.ray.settings import prepare_environment

    prepare_environment("local")
    import ray

    ray.init("local", num_cpus=1, include_dashboard=False, object_store_memory=10**8)
    try:

        @ray.remote(num_cpus=1)
        class Other:
            def is_there(self):
                return True

        other = Other.remote()
        assert ray.get(other.is_there.remote())
        monkeypatch.setattr(module, "ROOM_SECONDS", 2.0)
        with pytest.raises(DataError, match=r"no room for a worker for 2 s: each takes 1 CPU, and"):
            run_search(on_ray(spec_of()), tmp_path / "study")
        assert not list(tmp_path.iterdir())
        assert ray.is_initialized(), "a connection of somebody else's is left"
    finally:
        ray.shutdown()


@pytest.mark.parametrize("is_there", [True, False])
def test_worker_is_not_to_blame_for_a_driver_that_does_not_listen(
    done, spec_of, monkeypatch, is_there
):
    """An answer that waits was given in time, however late it is read."""
    from autopeft.engines.ray import engine as module
    from autopeft.engines.ray.settings import RaySettings
    from autopeft.engines.ray.slot import Slot

    monkeypatch.setattr(module.ray, "wait", lambda some, timeout: (some if is_there else [], []))
    monkeypatch.setattr(module.ray, "kill", lambda actor: None)
    engine = module.RayEngine(spec_of().work, RaySettings())
    silent, (attempt,) = time.monotonic() - 1000, attempts_of(read_jobs(done.folder)[0], {0})
    engine._slots = [Slot("running", since=silent, attempt=attempt)]
    engine._waiting = {"answer": engine._slots[0]}
    assert list(engine._look()) == []
    assert len(engine._attempts) == (not is_there), "whether it is tried again"
    engine._slots = [Slot("placing", since=silent)]
    engine._waiting = {"answer": engine._slots[0]}
    engine._share = free = "1 CPU"
    monkeypatch.setattr(module, "free", lambda: free)
    with nullcontext() if is_there else pytest.raises(DataError, match="has had no room"):
        list(engine._look())


def test_node_with_another_metric_gets_no_job(spec_of):
    from autopeft.engines.ray.engine import RayEngine
    from autopeft.engines.ray.settings import RaySettings
    from autopeft.engines.ray.slot import Slot

    work = spec_of().work
    facts = InlineEngine(work).load()
    engine, slot = RayEngine(work, RaySettings()), Slot(node="b")
    engine._loaded(Slot(node="a"), Loaded(facts=facts))
    engine._loaded(slot, Loaded(facts=facts))
    other = facts.model_copy(update={"metric_hash": "1" * 64})
    with pytest.raises(DataError, match="b has another file of the metric than the first node"):
        engine._loaded(slot, Loaded(facts=other))


@pytest.mark.parametrize(("told", "times"), [("Starting Ray client server failed", 3), ("no", 1)])
def test_busy_cluster_is_asked_again(monkeypatch, told, times):
    from autopeft.engines.ray import cluster

    asked = []

    def init(**arguments):
        asked.append(arguments)
        raise ConnectionError(told)

    monkeypatch.setattr(cluster.ray, "init", init)
    with pytest.raises(DataError, match="no Ray cluster answers"), cluster.connected("local"):
        pass
    assert len(asked) == times


def test_versions_that_differ_are_told_in_a_line():
    from ray._private.utils import check_version_info

    from autopeft.engines.ray.cluster import _refusal

    with pytest.raises(RuntimeError) as caught:
        check_version_info({"ray_version": "2.0.0", "python_version": "3.8.1"}, "this host")
    refusal = _refusal("head:6379", caught.value)
    assert isinstance(refusal, DataError)
    start = "the Ray cluster at head:6379 and this process differ: Ray: 2.0.0, Python: 3.8.1 with R"
    assert str(refusal).startswith(start)
    assert "\n" not in str(refusal)
