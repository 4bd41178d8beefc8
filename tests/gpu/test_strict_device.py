"""The engine on a device that refuses and notes what a GPU would: see `strict_device.py`.

What is learnt has to be what is learnt on the CPU, and no step may wait for the device.
"""

import copy
from collections import Counter
from dataclasses import replace
from functools import partial

import jaxtyping
import pytest
import strict_device
import torch
from model.test_model_kin import standing
from study_factory import results
from tiny import (
    CROSSED,
    D_MODEL,
    EVERY,
    HEAD,
    HEADLESS,
    HOULSBY,
    LORA,
    MAM,
    N_LAYERS,
    PFEIFFER,
    TASK,
    VECTORS,
    genotype,
    lora,
    op,
    tiny_backbone,
    tiny_model,
    tiny_rows,
)
from tiny_language import CONFIGS, HYBRIDS, MIXTURES, SEQ2SEQ, encoded, language, writing_backbone
from tiny_tokens import TASK as TAGGING
from tiny_tokens import tagged, tagging_backbone, tokenizer

from autopeft.engines import ground
from autopeft.model.backbone import cast
from autopeft.model.quantized import quantize
from autopeft.space.forms import Form
from autopeft.space.genotype import Genotype
from autopeft.space.methods import method, methods
from autopeft.space.taps import LINEAR_INPUT, Tap
from autopeft.study.search import run_search
from autopeft.tasks.task import encode_for
from autopeft.training.cohort import Cohort
from autopeft.training.frozen import FrozenCache
from autopeft.training.full import train_full
from autopeft.training.settings import TrainingSettings

pytestmark = pytest.mark.emulated

PROMPTS = ("prompt_tuning", "p_tuning")
"""Their trials have longer rows, and no company."""

OWN_WAITS = {
    "deberta-v2": "modeling_deberta_v2.py",
    "lfm2": "create_recurrent_attention_mask",  # is any row padded?
}
"""Models whose own code waits in every forward pass."""


@pytest.fixture(scope="module", autouse=True)
def device():
    if not strict_device.can_register():
        pytest.skip("this torch has no devices that are made in Python")
    jaxtyping.config.update("jaxtyping_disable", value=True)
    yield strict_device.register()
    jaxtyping.config.update("jaxtyping_disable", value=False)


def on(backbone, device):
    return replace(backbone, model=copy.deepcopy(backbone.model).to(device))


def learnt(backbone, genotypes, steps, *, task=TASK, rows=None, cached=False, **settings):
    """Losses [step, trial] of some steps of a training, and predictions [trial, row]."""
    settings = TrainingSettings(**({"epochs": 4, "batch_size": 5} | settings))
    backbone = cast(backbone, settings.precision)
    rows = tiny_rows(15) if rows is None else rows
    cache = FrozenCache(backbone, settings.kernel, 8) if cached else None
    if cache is not None:
        cache.fill(rows, {genotype.fork for genotype in genotypes})
    seeds = range(len(genotypes))
    with Cohort(backbone, genotypes, seeds, task, settings, cache=cache) as cohort:
        losses = cohort.train(rows, order_seed=0, until=steps)
        predictions, _ = cohort.predict(rows)
    return losses, predictions


def check(backbone, genotypes, device, *, own_waits="nowhere", **how):
    """Learn what is learnt on the CPU, and wait no more often for more steps."""
    on_cpu, predicted_on_cpu = learnt(backbone, genotypes, 4, **how)
    there = on(backbone, device)
    waits = []
    for steps in (4, 2):
        with strict_device.watch() as seen:
            losses, predicted = learnt(there, genotypes, steps, **how)
        waits.append(Counter(wait for wait in seen.waits if own_waits not in wait))
        if how.get("precision") == "bf16":  # rounded in other places
            torch.testing.assert_close(losses, on_cpu[:steps], rtol=0, atol=1e-2)
            continue
        torch.testing.assert_close(losses, on_cpu[:steps], rtol=0, atol=2e-6)
        if steps == 4:
            assert words(predicted) == words(predicted_on_cpu)
    more, fewer = waits
    assert not more - fewer


def words(predictions):
    """Of texts what was written, of all else the predictions."""
    return [[getattr(one, "text", str(one)) for one in trial] for trial in predictions]


def test_the_device_refuses_and_notes(device):
    x = torch.arange(6.0, device=device).view(2, 3)
    with pytest.raises(RuntimeError, match="shape \\(3,\\) is on the CPU"):
        x + torch.ones(3)
    with strict_device.watch() as seen:
        (x * 2.0 + torch.tensor(1.0)).sum()
        x.to(torch.bfloat16)
    assert not seen.waits
    assert seen.sent == {"mul": 1, "add": 1, "sum": 1, "_to_copy": 1}
    for wait in (
        lambda: x.sum().item(),
        lambda: bool(x.any()),
        x.cpu,
        x.tolist,
        lambda: x[x > 2],
        x.nonzero,
        lambda: torch.ones(3).to(device),
        lambda: torch.tensor([1.0], device=device),
        lambda: x.copy_(torch.ones(2, 3)),
    ):
        with strict_device.watch() as seen:
            wait()
        assert len(seen.waits) == 1
        assert "test_strict_device.py" in seen.waits[0]
    with strict_device.watch() as seen:
        torch.ones(3).to(device, non_blocking=True)
    assert not seen.waits


def test_the_device_learns_as_the_processor(device):
    weight = torch.randn(4, 3)
    gradients = []
    for place in ("cpu", device):
        own = weight.clone().to(place).detach().requires_grad_()
        state = torch.nn.functional.gelu(torch.ones(2, 3).to(place) @ own.T)
        state[:, :2].mul_(3.0)
        state.square().sum().backward()
        gradients.append(own.grad.cpu())
    assert torch.equal(*gradients)


@pytest.mark.parametrize("kernel", ["eager", "sdpa"])
@pytest.mark.parametrize("family", EVERY)
def test_families(family, kernel, device):
    company = [LORA, HOULSBY, HEAD]
    if family not in (*HEADLESS, *CROSSED):
        company.append(MAM)
    if family == "t5":
        company = [LORA, HEAD]
    own_waits = OWN_WAITS.get(family, "nowhere")
    check(tiny_backbone(family), company, device, kernel=kernel, own_waits=own_waits)


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
@pytest.mark.parametrize("name", methods())
def test_methods(name, precision, device):
    backbone = tiny_backbone("bert")
    one = method(name).genotype(backbone.shape)
    if name == "prompt_tuning":  # of a hundred tokens, which is more than the model reads
        one = method(name).largest(backbone.shape, 8 * D_MODEL)
    company = [one] if name in PROMPTS else [one, LORA, one]
    check(backbone, company, device, precision=precision)


def test_what_is_put_back_after_a_rehearsal_is_on_the_device(device):
    frozen = replace(lora(Tap.V, 2), form=Form.LOWRANK_FA)
    rehearsed = op(Form.LT_SFT, LINEAR_INPUT[Tap.Q], Tap.Q, 4)
    check(tiny_backbone("bert"), [genotype(rehearsed, frozen), LORA], device)


@pytest.mark.parametrize("family", CONFIGS | MIXTURES | HYBRIDS)
def test_texts(family, device):
    first = genotype(lora(Tap.Q, 4), lora(Tap.V, 2)) if family in MIXTURES else LORA
    company = [first, HOULSBY] if family in SEQ2SEQ else [first, HOULSBY, MAM]
    backbone, rows = writing_backbone(family), encoded(family, 10)
    company = [standing(one, backbone.shape) for one in company]
    how = {"task": language(family), "rows": rows}
    check(backbone, company, device, own_waits=OWN_WAITS.get(family, "nowhere"), **how)


def test_tags(device):
    rows = encode_for(TAGGING, tagged(10), tokenizer(), 16)
    check(tagging_backbone("bert"), [LORA, HOULSBY], device, task=TAGGING, rows=rows)


@pytest.mark.parametrize("how", [{"cached": True}, {"checkpointing": True}, {"accumulation": 2}])
@pytest.mark.parametrize("family", ["bert", "modernbert", "llama"])
def test_ways_to_train(family, how, device):
    high = [HEAD, genotype(lora(Tap.Q, (0, 0, 3))), genotype(lora(Tap.V, (0, 2, 3)))]
    check(tiny_backbone(family), high, device, **how)


@pytest.mark.parametrize("task", ["classes", "likelihood"])
def test_more_rows_are_scored_without_more_waits(task, device):
    backbone, scored, rows = tiny_backbone("bert"), TASK, tiny_rows
    if task == "likelihood":
        backbone, scored = writing_backbone("gpt2"), language("gpt2", "likelihood")
        rows = partial(encoded, "gpt2")
    settings = TrainingSettings(batch_size=2)
    waits = []
    with Cohort(on(backbone, device), [LORA, HEAD], range(2), scored, settings) as cohort:
        for n_rows in (4, 16):
            with strict_device.watch() as seen:
                cohort.predict(rows(n_rows))
            waits.append(len(seen.waits))
    assert waits[0] == waits[1] > 0


@pytest.mark.parametrize(("adaptive", "most"), [(False, 3), (True, 12)])
def test_a_trial_of_a_kind_that_is_there_costs_no_operations(adaptive, most, device):
    """But for the sum of its own gradient, and where ranks compete for the choice among its own."""
    kinds = [LORA, MAM, HOULSBY, VECTORS, HEAD, PFEIFFER]
    if adaptive:
        kinds = [method("adalora").genotype(tiny_backbone("bert").shape)]
    backbone = on(cast(tiny_backbone("bert"), "bf16"), device)
    settings = TrainingSettings(epochs=4, batch_size=5, precision="bf16")

    def sent(company, steps):
        with Cohort(backbone, company, range(len(company)), TASK, settings) as cohort:
            with strict_device.watch() as seen:
                cohort.train(tiny_rows(15), order_seed=0, until=steps)
            return seen.n_sent

    once, twice, four_times = (sent(kinds * n, 3) - sent(kinds * n, 2) for n in (1, 2, 4))
    assert twice < 1.1 * once  # where blocks are no neighbours, they are brought together
    assert four_times - twice <= most * 2 * len(kinds)


@pytest.mark.parametrize("cached", [False, True])
def test_a_batch_of_more_rows_costs_no_operations(cached, device):
    company = [genotype(lora(Tap.Q, (0, 0, 3))), genotype(lora(Tap.V, (0, 2, 3))), HEAD]
    backbone = on(tiny_backbone("bert"), device)

    def sent(batch_size, steps):
        how = {"cached": cached, "batch_size": batch_size, "rows": tiny_rows(24)}
        with strict_device.watch() as seen:
            learnt(backbone, company, steps, **how)
        return seen.n_sent

    few, many = (sent(n, 3) - sent(n, 2) for n in (4, 12))
    assert few == many


@pytest.mark.parametrize("scheme", ["nf4", "int8"])
def test_few_bits(scheme, device):
    pytest.importorskip("bitsandbytes")
    model = tiny_model("bert")
    quantize(model, scheme, tiny_backbone("bert", model=model).fresh)
    check(tiny_backbone("bert", model=model), [LORA, HOULSBY, MAM], device)


def test_full_fine_tuning(device):
    full = Genotype(N_LAYERS, (), 3e-3, 0.01, full=True)
    rows = {"train": tiny_rows(15), "validation": tiny_rows(11, seed=1)}
    how = {"task": TASK, "settings": TrainingSettings(epochs=2, batch_size=5), "order_seed": 4}
    on_cpu, _ = train_full(tiny_backbone("bert"), full, 7, **rows, **how)
    waits = []
    for steps in (4, 2):
        backbone = on(tiny_backbone("bert"), device)
        with strict_device.watch() as seen:
            trained, _ = train_full(backbone, full, 7, until=steps, **rows, **how)
        waits.append(Counter(seen.waits))
        assert trained.losses == pytest.approx(on_cpu.losses[:steps], abs=2e-6)
    assert not waits[0] - waits[1]


def test_a_search(spec_of, device, tmp_path, monkeypatch):
    """With rungs, kept states and a final selection, beside full fine-tuning."""
    spec = spec_of(
        trials=30,
        methods=["head", "lora", "mam", "ia3"],
        training={"epochs": 4, "cohort": "auto"},
        rungs=2,
        selection={"seeds": 2},
        full_finetune=True,
    )
    on_cpu = run_search(spec, tmp_path / "cpu")
    load = ground.load_backbone
    monkeypatch.setattr(
        ground, "load_backbone", lambda model, n, _, *more: load(model, n, device, *more)
    )
    with strict_device.watch() as seen:
        there = run_search(spec, tmp_path / "device")
    assert seen.n_sent > 1000
    for one, other in zip(results(there), results(on_cpu), strict=True):
        differing = {key for key in one if one[key] != other[key]}
        assert differing <= {"weights_sha256"}
