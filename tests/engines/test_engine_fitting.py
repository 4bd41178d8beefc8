"""Devices that are smaller than the one that a study was decided on."""

from dataclasses import replace

import pytest
import torch
from study_factory import BY_CHANCE, results

from autopeft.engines import calibrate, decide, workbench
from autopeft.engines.job import Job
from autopeft.engines.workbench import Workbench
from autopeft.study.jobs import read_jobs
from autopeft.study.manifest import read_manifest
from autopeft.training.memory import primitives_bytes


@pytest.mark.parametrize(
    ("trials", "most", "sizes"), [(4, 4, [4]), (4, 3, [2, 2]), (5, 2, [1, 2, 2])]
)
def test_pieces_are_even(done, trials, most, sizes):
    some = tuple(trial for job in read_jobs(done.folder) for trial in job.trials)[:trials]
    pieces = Job(some, 0, 0, 0).pieces(most)
    assert [len(piece.trials) for piece in pieces] == sizes
    assert tuple(trial for piece in pieces for trial in piece.trials) == some


def test_memory_is_taken_by_the_size_of_a_state(done, spec_of, tmp_path, monkeypatch):
    told = []
    monkeypatch.setattr(workbench, "use_heap", lambda *what: told.append(what))
    monkeypatch.setattr(workbench, "heap_of", lambda *_: "exact")
    decided = read_manifest(done.manifest_file).decided
    bench = Workbench(spec_of().work)
    bench.begin(decided, tmp_path, "exact")
    rows, width = bench._ground.train, bench._ground.backbone.model.config.hidden_size
    state = decided.settings.part_size * max(rows.lengths) * width * 4
    assert told == [("exact", state)]


def test_cohorts_are_held_to_what_the_process_holds_at_rest(done, spec_of, tmp_path, monkeypatch):
    def tell(*_, **how):
        raise LookupError(how["rest_bytes"], how["trial_bytes"])

    monkeypatch.setattr(workbench, "release_memory", lambda: 123)
    monkeypatch.setattr(workbench, "train_cohort", tell)
    decided = read_manifest(done.manifest_file).decided
    bench = Workbench(spec_of().work)
    bench.begin(decided, tmp_path, "rest")
    with pytest.raises(LookupError) as told:
        list(bench.run(read_jobs(done.folder)[0], [0], lambda *_: None))
    assert told.value.args == (123, decided.trial_bytes)


def test_memory_is_released_before_it_is_asked_what_is_free(monkeypatch):
    free = [10]
    monkeypatch.setattr(workbench, "release_memory", lambda: free.append(100))
    monkeypatch.setattr(workbench, "available_bytes", lambda _: free[-1])
    workbench._check_free(50, torch.device("cpu"))


def test_workers_share_the_memory_for_code(spec_of, monkeypatch):
    told = []
    monkeypatch.setattr(workbench, "keep_primitives", lambda *what: told.append(what))
    bench = Workbench(spec_of().work, sharing=3)
    assert told == [(bench._ground.work.max_memory, 3)]


def test_code_in_bf16_is_part_of_what_a_worker_holds(done, spec_of, monkeypatch):
    monkeypatch.setattr(calibrate, "held_before", lambda _: 7)
    ground = Workbench(spec_of().work)._ground
    lengths = {n for rows in (ground.train, *ground.scored) for n in rows.lengths}
    plain = replace(read_manifest(done.manifest_file).decided.settings, frozen_cache=False)
    found = [calibrate.start_bytes(ground, replace(plain, precision=p)) for p in ("fp32", "bf16")]
    assert found == [7, 7 + primitives_bytes(len(lengths))]


def test_cohorts_are_split_to_fit_a_smaller_device(done, spec_of, tmp_path, monkeypatch):
    decided = read_manifest(done.manifest_file).decided
    job = read_jobs(done.folder)[0]
    assert len(job.trials) == 4
    for_two = int(2.5 * 1.1 * decided.trial_bytes / decide.MEMORY_SHARE)
    monkeypatch.setattr(decide, "available_bytes", lambda _: for_two)
    bench = Workbench(spec_of().work)
    bench.begin(decided, tmp_path, "small", fitting=True)
    records = list(bench.run(job, job.numbers, lambda *_: None))
    assert [record.cohort for record in records] == [(0, 1), (0, 1), (2, 3), (2, 3)]
    plain = [{k: v for k, v in r.to_dict().items() if k not in BY_CHANCE} for r in records]
    assert plain == results(done)[:4]
    assert [r.cohort for r in bench.run(job, [3], lambda *_: None)] == [(2, 3)]
    bench.begin(decided, tmp_path, "large")
    assert {r.cohort for r in bench.run(job, [0], lambda *_: None)} == {(0, 1, 2, 3)}
