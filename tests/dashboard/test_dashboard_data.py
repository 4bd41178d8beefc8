"""What the page shows is what the records hold; nothing here draws."""

import math
from dataclasses import replace
from statistics import NormalDist

import pytest
from record_factory import make_failure, make_record
from synthetic_study import MINILM, front_for, make_study, write_manifest

from autopeft import constant
from autopeft.advice import Advice, advice_of
from autopeft.constant import Constant
from autopeft.dashboard.compare import attainment, differing
from autopeft.dashboard.importance import LEAST, importances
from autopeft.dashboard.info import costs_of, front_info, growth_of, jobs_of, study_info
from autopeft.dashboard.ops import average_share, params_by_place
from autopeft.dashboard.trials import trial_infos
from autopeft.dashboard.verdict import verdict_of
from autopeft.errors import DataError
from autopeft.front import front_of, place, volume
from autopeft.front_file import write_front
from autopeft.objectives import PARAMS
from autopeft.record_files import write_jsonl, write_record
from autopeft.records import Metric, Objective
from autopeft.selection import LEVEL, Comparison, Contender, Selection
from autopeft.space.genotype import Genotype, Op
from autopeft.space.genotype_file import genotype_from_dict
from autopeft.space.methods import method
from autopeft.study.folder import Study

LORA = method("lora").genotype(MINILM)
BUDGET = MINILM.backbone_params // 100


def record_of(genotype=LORA, accuracy=0.8, **changes):
    params = changes.pop("trainable_params", genotype.count_params(MINILM))
    return make_record(
        genotype=genotype.to_dict(),
        hash=genotype.hash,
        metrics={"accuracy": Metric(accuracy, 0.01)},
        trainable_params=params,
        **changes,
    )


def failure_of(kind="nan", genotype=LORA, **changes):
    params = genotype.count_params(MINILM)
    data = {"genotype": genotype.to_dict(), "hash": genotype.hash, "trainable_params": params}
    return make_failure(kind, **(data | changes))


def infos(records, front=(), max_params=BUDGET, shape=MINILM):
    return trial_infos(records, metric="accuracy", front=front, max_params=max_params, shape=shape)


@pytest.fixture(scope="module")
def study(tmp_path_factory):
    return make_study(tmp_path_factory.mktemp("made") / "sixty", 60)


@pytest.fixture(scope="module")
def info(study):
    return study_info(study)


def test_every_trial_and_every_record_is_there_once(study, info):
    records = study.records()
    assert [t.trial for t in info.trials] == sorted({r.trial for r in records})
    told = [(t.trial, m.rung, m.replicate) for t in info.trials for m in t.measurements]
    assert told == [record.key for record in records]
    assert math.isclose(sum(t.seconds for t in info.trials), sum(r.seconds for r in records))


def test_front_is_that_of_the_file(study, info):
    front = study.front()
    by_trial = {trial.trial: trial for trial in info.trials}
    assert info.front.trials == tuple(point.trial for point in front.points)
    assert {t.trial for t in info.trials if t.state == "front"} == set(info.front.trials)
    for point in front.points:
        trial = by_trial[point.trial]
        assert (trial.quality, trial.stderr, trial.params) == (
            point.quality,
            point.stderr,
            point.trainable_params,
        )
    assert (info.front.recommended, info.front.knee) == (front.recommended, front.knee)


@pytest.mark.parametrize(
    ("records", "front", "state"),
    [
        ([record_of(rung=1)], [3], "front"),
        ([record_of(rung=1)], [], "dominated"),
        ([record_of(rung=1, trainable_params=BUDGET + 1)], [], "over budget"),
        ([record_of(rung=0), record_of(trial=4, rung=1)], [], "stopped early"),
        ([record_of(rung=0), record_of(trial=4, rung=1)], [3], "front"),
        ([failure_of("crash")], [], "failed"),
        ([record_of(rung=0), failure_of("nan", rung=1)], [], "failed"),
        ([record_of(rung=0), failure_of("crash", rung=1)], [], "stopped early"),
    ],
)
def test_state_of_a_trial(records, front, state):
    assert infos(records, front)[0].state == state


def test_quality_is_the_mean_over_seeds_at_the_highest_rung():
    low = record_of(accuracy=0.7, rung=0)
    high = [record_of(accuracy=value, rung=1, replicate=i) for i, value in enumerate((0.8, 0.9))]
    (trial,) = infos([*high, low])
    assert trial.quality == pytest.approx(0.85)
    assert (trial.rung, trial.replicates) == (1, 2)
    over_seeds = math.sqrt(0.005) / math.sqrt(2)
    assert trial.stderr == pytest.approx(math.hypot(0.01, over_seeds))


def test_parameters_by_place_add_up_to_those_of_the_record(info):
    placed = [trial for trial in info.trials if trial.ops]
    assert len(placed) > 40
    for trial in placed:
        assert sum(params_by_place(trial.ops).values()) == trial.params


def test_ops_are_named_without_their_sizes():
    (trial,) = infos([record_of()])
    assert [(op.name, op.read, op.write, op.sizes) for op in trial.ops] == [
        ("LoRA q x2", "attn_in", "q", (8,) * 6),
        ("LoRA v x2", "attn_in", "v", (8,) * 6),
    ]
    assert trial.ops[0].params == (8 * 2 * 384,) * 6
    assert (trial.method, trial.attention_share, trial.mean_depth) == ("lora", 1.0, 0.5)
    assert trial.mergeable is True


def test_difference_from_lora_in_words():
    ops = (
        Op("lowrank", "attn_in", "q", (4,) * 6, scale=2.0),
        Op("bias", "ffn_up", "ffn_up", (1, 0, 0, 0, 0, 0)),
    )
    (trial,) = infos([record_of(Genotype(6, ops, 4e-3))])
    assert trial.unlike_lora == (
        "also BitFit up in layer 0",
        "no LoRA v r8 x2",
        "LoRA q r4 x2 instead of LoRA q r8 x2",
        "0.271 times the parameters (19,968 against 73,728)",
        "2 times the learning rate (0.004 against 0.002)",
    )


def test_average_of_the_front_weighs_every_trial_the_same():
    small = {(0, "q"): 1}
    large = {(0, "q"): 300, (1, "v"): 900}
    assert average_share([small, large, {}]) == {"q": [0.625, 0.0], "v": [0.0, 0.375]}


def test_model_without_widths_has_ops_and_no_parameters_by_place():
    (trial,) = infos([record_of()], shape=None)
    assert [op.params for op in trial.ops] == [(), ()]
    assert (trial.attention_share, trial.mean_depth, trial.method) == (None, None, None)


def test_genotype_of_another_version_is_told_by_its_trial():
    with pytest.raises(DataError, match=r"trial 3.*low_rank"):
        infos([make_record()])


def test_hypervolume_grows_to_that_of_all_trials(info):
    seconds, volumes = zip(*info.growth, strict=True)
    assert list(seconds) == sorted(seconds)
    assert list(volumes) == sorted(volumes)
    scored = [
        (place(PARAMS, trial.params, info.max_params), trial.quality)
        for trial in info.trials
        if trial.quality is not None and trial.params <= info.max_params
    ]
    assert volumes[-1] == pytest.approx(volume(scored))
    assert seconds[-1] == pytest.approx(sum(trial.seconds for trial in info.trials))


def test_growth_needs_a_budget():
    records = [record_of()]
    assert growth_of(records, infos(records), None) == ()


def test_trials_of_one_worker_and_start_are_one_job():
    records = [
        record_of(trial=0, seconds=2.0),
        record_of(trial=1, seconds=3.0),
        record_of(trial=2, worker="local-1"),
    ]
    jobs = jobs_of(records)
    assert [(job.worker, job.trials, job.seconds) for job in jobs] == [
        ("local-0", (0, 1), 5.0),
        ("local-1", (2,), 12.5),
    ]


def test_other_costs_have_fronts_of_their_own(info):
    costs = {cost.name: cost for cost in info.costs}
    assert list(costs) == ["trainable_params", "seconds", "latency_ms"]
    assert costs["trainable_params"].front == info.front.trials
    by_trial = {trial.trial: trial for trial in info.trials}
    for cost in costs.values():
        points = [(by_trial[n].costs[cost.name], by_trial[n].quality) for n in cost.front]
        assert points == sorted(points)
        for trial in info.trials:
            if trial.quality is not None and trial.state != "over budget":
                mine = (trial.costs[cost.name], trial.quality)
                assert any(c <= mine[0] and q >= mine[1] for c, q in points)


def test_importances_find_what_was_built_in(info):
    found = {item.objective: item for item in importances(info.trials)}
    assert set(found) == {"quality", "seconds", "latency_ms"}
    assert found["quality"].features[0] == "parameters"
    assert found["quality"].explained > 0.3
    assert found["seconds"].explained < found["quality"].explained
    assert found == {item.objective: item for item in importances(info.trials)}


def test_too_few_trials_have_no_importances(info):
    scored = [trial for trial in info.trials if trial.quality is not None]
    assert importances(scored[: LEAST - 1]) == ()
    assert importances([]) == ()


@pytest.mark.parametrize("n_trials", [0, 1])
def test_small_studies(tmp_path, n_trials):
    info = study_info(make_study(tmp_path / "small", n_trials, failing=0))
    assert len(info.trials) == n_trials
    assert info.verdict.headline == ("Use trial 0" if n_trials else "Nothing has been measured yet")
    assert info.costs[0].name == "trainable_params"


def test_study_of_failures_tells_their_causes(tmp_path):
    info = study_info(make_study(tmp_path / "failed", 12, failing=1.0, rungs=1))
    assert info.front.trials == ()
    assert info.verdict.headline == "All 12 trials failed"
    assert sum(int(word) for word in info.verdict.points[0].split() if word.isdigit()) == 12


def test_trials_are_told_of_those_that_may_come(tmp_path):
    made = make_study(tmp_path, 5, failing=1.0, rungs=1)
    assert study_info(made).facts["Trials"] == "5 trials, 5 failed"
    for most, told in ((8, "5 of at most 8 trials, 5 failed"), (5, "5 trials, 5 failed")):
        text = f"model: m\ntask: causal\ndata: {{train: t.jsonl}}\nbudget: {{trials: {most}}}\n"
        made.spec_file.write_text(text, encoding="utf-8")
        assert study_info(made).facts["Trials"] == told


def test_folder_that_is_no_study_is_refused(tmp_path):
    with pytest.raises(DataError, match="is not the folder of a study"):
        study_info(Study(tmp_path))
    with pytest.raises(DataError, match="is not a folder"):
        study_info(Study(tmp_path / "missing"))


def test_compiled_records_stand_in_for_their_files(tmp_path):
    record = record_of()
    write_record(tmp_path, record)
    write_jsonl(tmp_path, {record.key: record.to_json()})
    apart = tmp_path / "apart"
    apart.mkdir()
    (tmp_path / "records.jsonl").rename(apart / "records.jsonl")
    assert Study(apart).records() == Study(tmp_path).records()


def verdict(records, rows=872, selection=None, openings=(), constant=None):
    front = front_for(records)
    trials = infos(records, [point.trial for point in front.points])
    advice = advice_of(front, selection, constant, scored=len(trials))
    assert front_info(front, trials, advice).recommended == advice.trial
    return verdict_of(
        trials,
        front=front,
        advice=advice,
        rows=rows,
        selection=selection,
        openings=openings,
        constant=constant,
    )


SMALL = Genotype(6, (Op("bias", "ffn_up", "ffn_up", (1,) * 6),), 1e-3)


def test_verdict_within_noise_of_lora():
    found = verdict([record_of(trial=0), record_of(SMALL, 0.81, trial=1)])
    assert (found.tone, found.headline) == ("tie", "Use trial 1")
    assert (found.winners, found.loras) == ((), (0,))
    assert "beats LoRA alone (trial 0, in a single setting: 0.8000" in found.points[1]
    assert "trial 1 differs by +0.0100 ± 0.0141" in found.points[1]
    assert "flatter the winner" in found.points[-1]


def test_verdict_beyond_the_noise_of_lora():
    found = verdict([record_of(trial=0), record_of(SMALL, 0.84, trial=1)])
    assert found.tone == "gain"
    assert (found.winners, found.loras) == ((1,), (0,))
    assert found.points[1].startswith("Trial 1 scores higher than LoRA alone")


@pytest.mark.parametrize(("level", "tone"), [(0.052, "tie"), (0.048, "gain")])
def test_beyond_noise_is_what_it_is_in_the_final_selection(level, tone):
    assert LEVEL == constant.LEVEL == 0.05
    best = 0.8 + NormalDist().inv_cdf(1 - level) * math.hypot(0.01, 0.01)
    assert verdict([record_of(trial=0), record_of(SMALL, best, trial=1)]).tone == tone


def test_more_comparisons_need_a_larger_difference():
    """0.0293 is two standard errors for one comparison and too little for three."""
    alone = [record_of(trial=0), record_of(SMALL, 0.8293, trial=1)]
    cheaper = [
        record_of(SMALL, 0.7 + 0.01 * i, trial=2 + i, trainable_params=10 + i) for i in range(2)
    ]
    assert verdict(alone).tone == "gain"
    assert verdict([*alone, *cheaper]).tone == "tie"


def contender(trial, role, quality, params):
    search = quality + 0.02
    return Contender(trial, role, params, 0.01, "words", search, quality, 0.01, 0.7, 0.9, 3)


@pytest.mark.parametrize(("p_value", "tone"), [(0.01, "gain"), (0.5, "tie")])
def test_final_selection_has_the_last_word(p_value, tone):
    selection = Selection(
        metric="accuracy",
        rows=900,
        contenders=(contender(1, "front", 0.82, 10), contender(0, "lora", 0.8, 20)),
        comparisons=(Comparison(1, 0, 0.02, -0.01, 0.05, p_value),),
        recommended=1,
        notes=("trial 7 is left out: it failed",),
    )
    found = verdict([record_of(trial=0)], selection=selection)
    assert (found.tone, found.headline, found.trial) == (tone, "Use trial 1", 1)
    assert (found.winners, found.loras) == ((1,) if tone == "gain" else (), (0,))
    alone = verdict([record_of(trial=0)], selection=replace(selection, comparisons=()))
    assert (alone.tone, alone.winners, alone.loras) == ("none", (), (0,))
    larger = replace(selection.contenders[0], trainable_params=30)
    above = replace(selection, contenders=(selection.contenders[1], larger))
    told = verdict([record_of(trial=0)], selection=above)
    assert (told.tone, told.winners, told.loras) == ("none", (), (0,)), "it has more parameters"
    assert told.points[0] == above.verdict
    assert (found.quality, found.stderr, found.answer) == (0.82, 0.01, "words")
    assert found.points[0] == selection.verdict
    assert "900 rows that the search has not seen" in found.points[1]
    assert found.scored_on == "900 unseen rows"
    seen = verdict([record_of(trial=0)], selection=replace(selection, seen=9))
    assert seen.scored_on == "900 rows"
    left_out = verdict([record_of(trial=0)], selection=replace(selection, folds=True))
    assert left_out.scored_on == "900 left out rows"
    assert "900 training rows, each left out of the training that it scores" in left_out.points[1]
    assert found.points[2:] == (
        (
            "Scores of the front and of the trials are on the 872 rows that the search selected "
            "on, so they flatter the winner. ± is one standard error. In the search the front "
            "scored 0.0200 higher in the mean."
        ),
        "Trial 7 is left out: it failed.",
    )


@pytest.mark.parametrize("split", ["selection", "fold"])
def test_records_of_the_final_selection_change_no_score(split):
    searched = record_of(rung=1)
    selected = record_of(accuracy=0.1, rung=2, replicate=1, split=split)
    other = record_of(SMALL, trial=4, rung=1)
    first, second = infos([searched, selected, other])
    assert (first.quality, first.rung, first.state) == (0.8, 1, "dominated")
    assert second.state == "dominated"
    assert [m.split for m in first.measurements] == ["validation", split]
    records = [searched, selected, other]
    assert growth_of(records, [first, second], BUDGET)[-1][0] == searched.seconds + other.seconds


def test_front_that_learnt_nothing_is_not_recommended():
    records = [record_of(trial=0), record_of(SMALL, 0.81, trial=1)]
    always = Constant('"positive"', 0.79, 0.01)
    found = verdict(records, constant=always)
    assert (found.headline, found.answer, found.tone) == ("Nothing has been learnt yet", "", "none")
    assert found.trial is None
    assert found.points[0].startswith(
        'Always answering "positive" scores 0.7900 \u00b1 0.0100, and'
    )
    assert "flatter the winner" in found.points[-1]
    found = verdict(records, constant=replace(always, value=0.5))
    assert (found.headline, found.trial) == ("Use trial 1", 1)
    assert 'Always answering "positive" scores 0.5000 \u00b1 0.0100.' in found.points


def test_head_that_is_recommended_is_not_set_against_itself():
    head = Genotype(6, (), 1e-3)
    found = verdict([record_of(head, trial=0), record_of(trial=1)])
    assert found.trial == 0
    assert not any("the ops add" in point for point in found.points)
    found = verdict([record_of(head, 0.5, trial=0), record_of(trial=1)])
    assert any("The head alone reaches 0.5000; the ops add +0.3000" in p for p in found.points)


def test_scores_of_other_rows_are_not_set_against_these():
    contenders = (contender(1, "front", 0.82, 10), contender(0, "lora", 0.8, 20))
    selection = Selection("bleu", 900, contenders, (), recommended=1, search_compares=False)
    found = verdict([record_of(trial=0)], selection=selection)
    assert not any("higher in the mean" in point for point in found.points)


def test_selection_that_learnt_nothing_recommends_nothing():
    full = contender(2, "full", 0.95, 1000)
    selection = Selection(
        "accuracy", 900, (contender(0, "lora", 0.8, 20), full), comparisons=(), recommended=0
    )
    always = Constant('"positive"', 0.79, 0.01)
    found = verdict([record_of(trial=0)], selection=selection, constant=always)
    assert found.headline == "Nothing has been learnt yet", "full fine-tuning is no candidate"
    assert found.trial is None
    assert selection.verdict in found.points
    found = verdict([record_of(trial=0)], selection=selection, constant=replace(always, value=0.5))
    assert found.headline == "Use trial 0"


def test_verdict_without_lora_says_so():
    found = verdict([record_of(SMALL, trial=1)])
    assert found.tone == "none"
    assert "LoRA alone was not tried" in found.points[1]


def look(trial, value):
    score = {"accuracy": {"value": value, "stderr": 0.01}}
    results = [
        {"role": role, "trial": number, "metrics": score}
        for role, number in (("recommended", trial), ("tuned LoRA", 0))
    ]
    return {"rows": 1821, "metric": "accuracy", "results": results}


def seen(trial, value):
    """What such a look comes to."""
    score = f"{value:.4f} ± 0.0100"
    return f"recommended (trial {trial}) {score}, tuned LoRA (trial 0) {score}"


UNSEEN, SECOND = "On 1,821 test rows that the search has not seen", "At look 2 at 1,821 test rows"


@pytest.mark.parametrize(
    ("looks", "told"),
    [
        ([look(0, 0.79), look(0, 0.81)], f"{UNSEEN}: {seen(0, 0.79)}."),
        ([look(3, 0.79), look(0, 0.81), look(0, 0.82)], f"{SECOND}: {seen(0, 0.81)}."),
        ([look(3, 0.79)], f"{UNSEEN}: {seen(3, 0.79)}. Trial 0 has not been tested."),
        (
            [look(3, 0.79), look(2, 0.78)],
            f"{SECOND}: {seen(2, 0.78)}. Trial 0 has not been tested.",
        ),
    ],
    ids=["the first", "the first at it", "of another", "the last of others"],
)
def test_verdict_tells_the_look_at_the_test_split_that_it_is_about(looks, told):
    """A study that went on may recommend another trial than the one that was tested."""
    assert verdict([record_of(trial=0)], openings=looks).points[-1] == told


def test_attainment_of_repeated_studies(info):
    def reaching(*points):
        trials = tuple(
            replace(info.trials[0], trial=i, params=params, quality=quality)
            for i, (params, quality) in enumerate(points)
        )
        front = replace(info.front, trials=tuple(range(len(points))))
        return replace(info, trials=trials, front=front)

    studies = [reaching((10, 0.5), (30, 0.7)), reaching((20, 0.6)), reaching((20, 0.8))]
    found = attainment(studies)
    assert found.params == (10, 20, 30)
    assert found.worst == (None, 0.5, 0.6)
    assert found.middle == (None, 0.6, 0.7)
    assert found.best == (0.5, 0.8, 0.8)
    assert differing(studies) == ""
    assert differing([info, replace(info, metric="f1")]) == "metrics"


def test_methods_are_recognised_at_every_size(info):
    assert [info.trial(i).method for i in range(6)] == [
        "head",
        "lora",
        "scaled_parallel",
        "pfeiffer",
        "bitfit",
        "ia3",
    ]
    smaller = method("lora").genotype(MINILM, 2)
    assert infos([record_of(smaller)])[0].method == "lora"
    assert infos([record_of(SMALL)])[0].method is None
    with pytest.raises(KeyError):
        info.trial(1000)


def test_front_file_without_manifest_is_enough(tmp_path):
    record = record_of(trial=0)
    write_record(tmp_path, record)
    write_front(tmp_path, front_for([record]))
    info = study_info(Study(tmp_path))
    assert (info.front.recommended, info.n_layers) == (0, 6)
    write_manifest(tmp_path, BUDGET, MINILM)
    facts = study_info(Study(tmp_path)).facts
    assert facts["Model"] == "MiniLM-L6, 22,713,216 parameters"
    assert facts["Training"].startswith("3 epochs, bf16")
    assert facts["Trials"] == "1 trial"
    write_manifest(tmp_path, BUDGET, MINILM, settings={"epochs": 1, "precision": "bf16"})
    assert study_info(Study(tmp_path)).facts["Training"].startswith("1 epoch, bf16")


def test_genotypes_are_told_in_words(info, study):
    by_trial = {record.trial: record for record in study.records()}
    for trial in info.trials:
        genotype = genotype_from_dict(by_trial[trial.trial].genotype)
        assert trial.learning_rate == genotype.learning_rate
        assert trial.hash == genotype.hash


def test_growth_ends_at_the_hypervolume_of_the_front_with_several_costs(study, info):
    costs = {"trainable_params": None, "latency_ms": None}
    front = front_of(study.records(), "accuracy", "maximize", info.max_params, lambda _: "-", costs)
    growth = growth_of(study.records(), info.trials, info.max_params, front.worst)
    assert growth[-1][1] == pytest.approx(front.hypervolume)
    assert front.hypervolume < info.front.hypervolume, "or the second cost changes nothing"


def test_what_was_measured_alone_is_told_from_what_was_predicted():
    memory = "peak_memory_bytes"
    searched = record_of(rung=0, objectives={memory: Objective(3.0, "B", None, "predicted")})
    again = record_of(
        rung=0,
        replicate=1,
        split="selection",
        objectives={memory: Objective(2.0, "B", None, "measured")},
    )
    (trial,) = infos([searched, again])
    assert (trial.costs[memory], trial.alone) == (3.0, {memory: 2.0})
    front = front_info(None, [trial], Advice(None))
    found = costs_of([trial], [searched, again], front, BUDGET, 8)
    (cost,) = [cost for cost in found if cost.name == memory]
    assert (cost.label, cost.unit, cost.limit) == ("peak training memory", "B", 8)
    assert cost.predicted
