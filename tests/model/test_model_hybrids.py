"""Hybrids: something else instead of attention in most layers."""

import pytest
import torch
from test_model_decoders import COMPANY, HEADS, excited
from test_model_kin import HYBRIDS, SPECIAL, standing, tiny
from tiny import D_MODEL, HEAD, as_params, genotype, lora, op, same, same_bits, state, tiny_batch
from transformers import AutoConfig, AutoModel, AutoModelForCausalLM

from autopeft.errors import ConfigError, DataError
from autopeft.model.anatomy import Anatomy
from autopeft.model.inject import Injection
from autopeft.model.outline import kept_bytes
from autopeft.space.forms import Form
from autopeft.space.methods import method
from autopeft.space.shape import ModelShape
from autopeft.space.taps import Tap

OF_ATTENTION = (Tap.Q, Tap.K, Tap.V, Tap.HEAD)
INSTEAD = {"granitemoehybrid": "mamba", "lfm2": "conv"}
WIDE = ("granitemoehybrid",)
"""What comes before the output projection is wider where there is no attention."""


@pytest.mark.parametrize("family", HYBRIDS)
def test_taps_of_attention_are_in_the_layers_that_have_it(family):
    anatomy = Anatomy(tiny(family))
    shape = anatomy.shape()
    only = {*OF_ATTENTION, *([Tap.PRE_O] if family in WIDE else [])}
    assert shape.only_in == dict.fromkeys(only, (1,))
    assert list(shape.layers_with([Tap.ATTN_IN, Tap.ATTN_OUT, Tap.FFN_IN, Tap.FFN_OUT])) == [
        0,
        1,
        2,
    ]
    assert list(shape.layers_with([Tap.ATTN_IN, Tap.Q])) == [1]
    assert ModelShape.from_dict(shape.to_dict()) == shape
    instead = INSTEAD.get(family, "linear_attn")
    (note,) = anatomy.notes
    assert note.startswith(f"layers 0,2 of this {family} model have `{instead}` instead of attent")
    assert note.endswith("head are in layer 1 alone" if family not in WIDE else "in layer 1 alone")
    assert not shape.biased
    with pytest.raises(ValueError, match="layer 2 has no q"):
        anatomy.point(2, Tap.Q)


def test_a_tap_has_a_bias_if_it_has_one_in_every_layer():
    shape = Anatomy(tiny("qwen3_5_text", attention_bias=True)).shape()
    assert shape.biased == {Tap.Q, Tap.K, Tap.V}


@pytest.mark.parametrize("family", HYBRIDS)
@torch.no_grad()
def test_what_is_there_instead_is_read_and_written_as_attention_is(family):
    """An op from its input to its output adds to what it puts out."""
    model = tiny(family)
    batch, anatomy = tiny_batch(model), Anatomy(model)
    one = genotype(op(Form.LOWRANK, Tap.ATTN_IN, Tap.ATTN_OUT, 2), same(Form.SCALE, Tap.ATTN_OUT))
    injection = Injection(model, [one], [0], "eager")
    own = {name: tensor.normal_(std=0.3).clone() for name, tensor in injection.tensors(0).items()}
    found = model(**batch).last_hidden_state
    injection.remove()
    assert not torch.allclose(found, model(**batch).last_hidden_state, atol=1e-2)
    for i, block in enumerate(anatomy.layers):
        mine = {name.rpartition(".")[2]: t for name, t in own.items() if f".{i}." in name}
        seen = {}
        attention = anatomy.module(i, "attention")

        def read(_, args, kwargs, seen=seen):
            seen["read"] = args[0] if args else kwargs["hidden_states"]

        def write(_, __, out, mine=mine, seen=seen):
            whole = out[0] if isinstance(out, tuple) else out
            whole = (whole + seen["read"] @ mine["a"].T @ mine["b"]) * mine["factors"].flatten()
            return (whole, *out[1:]) if isinstance(out, tuple) else whole

        attention.register_forward_pre_hook(read, with_kwargs=True)
        attention.register_forward_hook(write)
        assert attention in block.children()
    torch.testing.assert_close(found, model(**batch).last_hidden_state, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("family", HYBRIDS)
@pytest.mark.parametrize("side", ["left", "right"])
@torch.no_grad()
def test_trials_together_are_each_alone_and_padding_is_nothing(family, side):
    """To the bit, but where experts get the tokens of all trials."""
    model = tiny(family)
    shape, batch = Anatomy(model).shape(), tiny_batch(model)
    if side == "left":
        batch = {name: tensor.flip(1) for name, tensor in batch.items()}
    real = batch["attention_mask"].bool()
    batch["position_ids"] = (real.cumsum(1) - 1).clamp(min=0)
    company = [HEAD, *(standing(one, shape) for one in _fitting(shape)), HEAD]

    def states(some, rows):
        injection = Injection(model, [company[i] for i in some], some, "sdpa")
        for tensors in map(injection.tensors, range(len(some))):
            for tensor in tensors.values():
                generator = torch.Generator().manual_seed(tensor.numel())
                tensor.add_(0.2 * torch.randn(tensor.shape, generator=generator))
        try:
            return model(**rows).last_hidden_state.chunk(len(some))
        finally:
            injection.remove()

    together = states(range(len(company)), batch)
    for i, found in enumerate(together):
        (alone,) = states([i], batch)
        if ("moe" in family and "granite" not in family) or family == "qwen3_next":
            torch.testing.assert_close(found[real], alone[real], rtol=0, atol=5e-6)
        else:
            assert torch.equal(found[real], alone[real])
        for row, there in enumerate(real):
            short = {name: tensor[row : row + 1, there] for name, tensor in batch.items()}
            (unpadded,) = states([i], short)
            torch.testing.assert_close(found[row, there], unpadded[0], rtol=0, atol=2e-5)


def _fitting(shape):
    """Of the company of other decoders what needs no tap inside of an FFN of experts."""
    return [
        one
        for one in (*COMPANY, HEADS)
        if {tap for op in one.ops for tap in (op.read, op.write)} <= set(shape.widths)
    ]


@pytest.mark.parametrize(
    "family",
    as_params(HYBRIDS, twins={*HYBRIDS} - {"qwen3_5_text"}),
)
@pytest.mark.parametrize("beams", [1, 3])
@pytest.mark.parametrize("side", ["left", "right"])
def test_generation_with_a_cache_is_generation_without(family, beams, side):
    """With states of what is there instead of attention in it."""
    model = tiny(family, AutoModelForCausalLM)
    plain, shape = state(model), Anatomy(model).shape()
    batch = tiny_batch(model, 3)
    if side == "left":
        batch = {name: tensor.flip(1) for name, tensor in batch.items()}

    def generate(*, cached):
        settings = {"max_new_tokens": 6, "do_sample": False, "pad_token_id": 0}
        return model.generate(
            **batch, num_beams=beams, use_cache=cached, eos_token_id=None, **settings
        )

    for one in _fitting(shape):
        injection = excited(model, standing(one, shape))
        assert torch.equal(generate(cached=True), generate(cached=False))
        injection.remove()
    assert same_bits(state(model), plain)


def test_methods_stand_where_their_taps_are():
    shape = Anatomy(tiny("qwen3_5_text")).shape()
    sizes = {op.write: op.sizes for op in method("lora_all").genotype(shape).ops}
    assert sizes == {
        **dict.fromkeys((Tap.Q, Tap.K, Tap.V), (0, 8, 0)),
        **dict.fromkeys((Tap.ATTN_OUT, Tap.FFN_GATE, Tap.FFN_UP, Tap.FFN_OUT), (8, 8, 8)),
    }
    assert {op.write: op.sizes for op in method("ia3").genotype(shape).ops} == {
        **dict.fromkeys((Tap.K, Tap.V), (0, 1, 0)),
        Tap.FFN_MID: (1, 1, 1),
    }


def test_an_op_where_there_is_no_attention_is_refused_and_so_is_a_prompt():
    model = tiny("qwen3_5_text")
    with pytest.raises(
        ConfigError,
        match=r"attn_in->q is in layers 0,2, where there is no tap q; layer 1 can have it",
    ):
        Injection(model, [genotype(lora(Tap.Q, 2))], [0], "eager")
    with pytest.raises(ConfigError, match="the model has no tap embed"):
        Injection(
            model, [method("prompt_tuning").genotype(Anatomy(tiny("gemma")).shape())], [0], "eager"
        )


def test_hybrids_that_cannot_be_used_are_refused():
    shared = HYBRIDS["granitemoehybrid"]
    with pytest.raises(DataError, match="has no layer with attention"):
        Anatomy(tiny("granitemoehybrid", layer_types=["linear_attention"] * 3))
    config = AutoConfig.for_model("granitemoehybrid", **shared | {"num_local_experts": 2})
    with torch.device("meta"):
        model = AutoModel.from_config(config)
    with pytest.raises(DataError, match=r"`layers\.0\.block_sparse_moe` beside its FFN"):
        Anatomy(model)
    wide = tiny("qwen3_5_text")
    wide.layers[1].self_attn.o_proj = torch.nn.Linear(D_MODEL + 1, D_MODEL)
    assert Anatomy(wide).shape().only_in[Tap.PRE_O] == (1,)


@pytest.mark.parametrize("family", HYBRIDS)
def test_what_a_step_keeps_is_known_without_weights(family):
    config = AutoConfig.for_model(family, **HYBRIDS[family], **SPECIAL)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, attn_implementation="eager")
    assert kept_bytes(model.requires_grad_(requires_grad=False), 4, 8, 0) > 4 * 8 * D_MODEL * 4
