"""AdaLoRA's rank budget: what is cut when, and that it is per trial."""

import pytest
import torch
from peft import AdaLoraConfig
from peft.tuners.adalora.layer import RankAllocator
from tiny import genotype, lora, op, op_params, tiny_backbone, tiny_model, train
from torch import nn

from autopeft.model.inject import Injection
from autopeft.ops.adalora import AdaLora
from autopeft.space.forms import Form
from autopeft.space.taps import LINEAR_INPUT, Tap
from autopeft.training.ranks import RankBudget, rank_budget


def adalora(tap, sizes, **more):
    return op(Form.ADALORA, LINEAR_INPUT[tap], tap, sizes, **more)


QV = genotype(adalora(Tap.Q, 4), adalora(Tap.V, (2, 0, 6)))


def test_the_budget_falls_from_all_to_the_target():
    budgets = [rank_budget(done / 100, 60, 40) for done in range(101)]
    assert set(budgets[:11]) == {60}
    assert set(budgets[50:]) == {40}
    assert budgets == sorted(budgets, reverse=True)
    assert budgets[30] == 40 + int(20 * 0.5**3)


def test_ranks_end_uneven_with_the_total_that_was_asked_for():
    backbone = tiny_backbone("bert")
    (trained,) = train(backbone, [QV], epochs=8)
    sizes = [size for one in trained.stored.ops for size in one.sizes]
    assert {one.form for one in trained.stored.ops} == {Form.LOWRANK}
    assert sum(sizes) == 3 * 4 + 2 + 6, "q and v share a budget"
    assert len(set(sizes)) > 2
    assert op_params(trained) == QV.count_params(backbone.shape)


def test_weights_of_other_widths_have_a_budget_of_their_own():
    backbone = tiny_backbone("bert")
    one = genotype(adalora(Tap.Q, 2), adalora(Tap.FFN_UP, 4), adalora(Tap.FFN_OUT, 2))
    (trained,) = train(backbone, [one], epochs=8)
    by_tap = {kept.write: sum(kept.sizes) for kept in trained.stored.ops}
    assert by_tap[Tap.Q] == 6
    assert by_tap[Tap.FFN_UP] + by_tap[Tap.FFN_OUT] == 18
    assert op_params(trained) == one.count_params(backbone.shape)


def test_importance_and_cuts_are_those_of_peft():
    """The same parameters and gradients in peft's allocator, one matrix a layer."""
    injection = Injection(tiny_model("bert"), [genotype(adalora(Tap.Q, 2))], [0], "eager")
    stacks = [stack for stack in injection.stacks() if isinstance(stack, AdaLora)]
    theirs = nn.Module()
    names = {"a": "lora_A", "b": "lora_B", "values": "lora_E"}
    for i, stack in enumerate(stacks):
        layer = theirs
        layer.add_module(f"layer{i}", nn.Module())
        for name, their_name in names.items():
            own = stack.own(name, 0)
            tensor = own.T if name == "b" else own
            holder = nn.ParameterDict({"default": nn.Parameter(tensor.detach().clone())})
            theirs.get_submodule(f"layer{i}").add_module(their_name, holder)
    config = AdaLoraConfig(target_r=2, init_r=3, tinit=0, tfinal=1, total_step=10)
    allocator = RankAllocator(theirs, config, "default")
    ours = RankBudget(injection.stacks(), 10)
    generator = torch.Generator().manual_seed(0)
    for _ in range(3):
        for i, stack in enumerate(stacks):
            for name, their_name in names.items():
                parameter = stack.get_parameter(name)
                parameter.data[:, :3] += torch.randn(parameter[:, :3].shape, generator=generator)
                parameter.grad = torch.zeros_like(parameter)
                parameter.grad[:, :3] = torch.randn(parameter[:, :3].shape, generator=generator)
                own, grad = parameter[0, :3].detach(), parameter.grad[0, :3]
                twin = theirs.get_submodule(f"layer{i}.{their_name}")["default"]
                twin.data = own.T.clone() if name == "b" else own.clone()
                twin.grad = grad.T.clone() if name == "b" else grad.clone()
        ours.observe()
        allocator.update_ipt(theirs)
    pattern = allocator.mask_to_budget(theirs, 6)
    ours.cut(9)
    for i, stack in enumerate(stacks):
        assert stack.kept[0, :3].tolist() == pattern[f"layer{i}.lora_E.default"]
        twin = theirs.get_submodule(f"layer{i}.lora_E")["default"]
        torch.testing.assert_close(stack.own("values", 0), twin)
    assert sum(int(stack.kept.sum()) for stack in stacks) == 6


def test_vectors_are_held_near_orthonormal(monkeypatch):
    def distance():
        (trained,) = train(tiny_backbone("bert"), [QV], epochs=8)
        downs = [t for name, t in trained.tensors.items() if name.endswith(".a")]
        return sum((down @ down.T - torch.eye(len(down))).norm() for down in downs)

    held = distance()
    monkeypatch.setattr("autopeft.ops.adalora.ORTHOGONALITY", 0.0)
    assert held < 0.8 * distance()


def test_a_lora_in_the_same_place_is_refused():
    with pytest.raises(Exception, match="once it is trained it is a lowrank"):
        genotype(adalora(Tap.Q, 2), lora(Tap.Q, 2))
