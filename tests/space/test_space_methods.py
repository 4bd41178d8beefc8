"""The named methods: their published parameter counts, and their place in a budget."""

import dataclasses

import pytest
from space_factory import MINILM, MODELS, ROBERTA_BASE

from autopeft.errors import ConfigError
from autopeft.space.genotype import Genotype
from autopeft.space.methods import TABLE, method, methods
from autopeft.space.shape import BERT_BASE, ModelShape, encoder_shape
from autopeft.space.taps import CROSS, Tap

REQUIRED = ["adapterdrop", "hadamard", "ln_tuning", "s_bitfit", "lora_all", "parallel_attention"]
REQUIRED += ["head", "lora", "houlsby", "pfeiffer", "parallel", "prefix", "bitfit", "ia3", "mam"]
D, D_FF, N_LAYERS = 768, 3072, 12


def test_the_methods_of_the_field_are_there():
    assert set(REQUIRED) <= set(methods())


@pytest.mark.parametrize(
    ("name", "params"),
    [
        ("head", 0),
        ("pfeiffer", 894_528),
        ("houlsby", 1_789_056),
        ("parallel", 7_091_712),
        ("lora", 294_912),
        ("prefix", 552_960),
        ("bitfit", N_LAYERS * (7 * D + D_FF)),
        ("ia3", N_LAYERS * (2 * D + D_FF)),
        ("lora_ffn", N_LAYERS * 2 * 102 * (D + D_FF)),
        ("scaled_parallel", N_LAYERS * (2 * 512 * D + 512 + D)),
        ("lora_fa", N_LAYERS * 2 * 16 * D),
        ("dora", 294_912 + N_LAYERS * 2 * D),
        ("vera", N_LAYERS * 2 * (256 + D)),
        ("krona", N_LAYERS * 2 * (8 * 8 + 96 * 96)),
        ("compacter", 57_088),
        ("compacter_plus_plus", 28_576),
        ("multihead_parallel", 552_960),
        (
            "unipelt",
            N_LAYERS * (2 * 10 * D + 2 * 48 * D + 48 + D + 2 * 8 * 2 * D + 4 * (D + 1)),
        ),
        ("prefix_mlp", 552_960),
        ("sequential", N_LAYERS * (2 * 200 * D + 200 + D)),
        ("prefix_long", N_LAYERS * 2 * 200 * D),
        ("mam_small", 589_824 + N_LAYERS * (16 + D)),
        ("prefix_lora", 552_960 + N_LAYERS * 2 * 102 * (D + D_FF)),
        ("prompt_tuning", 100 * D),
        ("p_tuning", 20 * D),
        ("lora_all", N_LAYERS * 8 * (4 * 2 * D + 2 * (D + D_FF))),
        ("adalora", N_LAYERS * 8 * (4 * 2 * D + 2 * (D + D_FF))),
        ("sparse_random", N_LAYERS * (4 * round(0.005 * D * D) + 2 * round(0.005 * D * D_FF))),
        ("fish", N_LAYERS * (4 * 2949 + 2 * 11_796)),
        ("lt_sft", N_LAYERS * (4 * 47_185 + 2 * 188_743)),
        ("diff_pruning", N_LAYERS * (4 * 2949 + 2 * 11_796)),
        ("sparse_adapter", 894_528),
        ("adapterdrop", 7 * 894_528 // N_LAYERS),
        ("hadamard", N_LAYERS * 2 * D),
        ("s_bitfit", N_LAYERS * (D + D_FF)),
        ("ln_tuning", N_LAYERS * 4 * D),
        ("parallel_attention", N_LAYERS * (2 * 200 * D + 200 + D)),
        ("mam", 552_960 + N_LAYERS * (2 * 512 * D + 512 + D)),
    ],
)
def test_parameters_are_the_published_ones(name, params):
    assert method(name).genotype(ROBERTA_BASE).count_params(ROBERTA_BASE) == params


def test_a_prefix_by_an_mlp_trains_more_than_it_stores():
    prefix = method("prefix_mlp").genotype(ROBERTA_BASE)
    assert prefix.count_trained(ROBERTA_BASE) == 9_872_384
    assert method("prefix_mlp").largest(ROBERTA_BASE, 10**9, 9_872_383).ops[0].sizes[0] == 20


def test_p_tuning_trains_an_encoder_that_is_not_stored():
    prompt = method("p_tuning").genotype(ROBERTA_BASE)
    assert prompt.count_trained(ROBERTA_BASE) == 20 * D + 3 * (D * D + D)
    assert prompt.ops[0].sizes == (20,) + (0,) * (N_LAYERS - 1)


def test_adapterdrop_leaves_the_lowest_layers_out():
    (op,) = method("adapterdrop").genotype(ROBERTA_BASE).ops
    assert op.sizes == (0,) * 5 + (48,) * 7
    (op,) = method("adapterdrop").genotype(MINILM).ops
    assert op.sizes == (0,) * 2 + (48,) * 4


def test_a_learned_scale_costs_one_parameter_in_each_layer():
    genotype = method("scaled_parallel").genotype(ROBERTA_BASE)
    learned = [dataclasses.replace(op, scale="learned") for op in genotype.ops]
    more = Genotype(N_LAYERS, tuple(learned), 1e-3).count_params(ROBERTA_BASE)
    assert more == genotype.count_params(ROBERTA_BASE) + N_LAYERS


def test_grouped_query_attention_makes_prefixes_and_key_scales_narrower():
    widths = {**BERT_BASE.widths, Tap.HEAD: 128, Tap.K: 128, Tap.V: 128}
    shape = ModelShape(12, widths, BERT_BASE.backbone_params)
    assert method("prefix").genotype(shape).count_params(shape) == 12 * 2 * 30 * 128
    assert method("ia3").genotype(shape).count_params(shape) == 12 * (2 * 128 + 3072)


@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize("model", MODELS)
def test_each_level_is_smaller_than_the_one_before(name, model):
    shape, entry = MODELS[model], method(name)
    levels = range(entry.n_sizes(shape))
    costs = [entry.genotype(shape, level).count_params(shape) for level in levels]
    assert costs == sorted(set(costs), reverse=True)


@pytest.mark.parametrize("name", methods())
@pytest.mark.parametrize("fraction", [0.001, 0.01, 0.05])
@pytest.mark.parametrize("model", MODELS)
def test_the_largest_that_fits_fits_and_the_next_does_not(name, fraction, model):
    shape, entry = MODELS[model], method(name)
    budget = int(fraction * shape.backbone_params)
    genotype = entry.largest(shape, budget)
    costs = [entry.genotype(shape, i).count_params(shape) for i in range(entry.n_sizes(shape))]
    fitting = [cost for cost in costs if cost <= budget]
    if genotype is None:
        assert not fitting
    else:
        assert genotype.count_params(shape) == max(fitting)


def test_all_methods_have_a_size_for_one_percent_of_bert_and_minilm():
    for shape in (BERT_BASE, MINILM):
        budget = shape.backbone_params // 100
        assert all(entry.largest(shape, budget) for entry in methods().values())


def test_a_method_without_its_tap_is_refused_with_those_there_are():
    widths = {tap: 4 for tap in Tap if tap is not Tap.HEAD}
    with pytest.raises(ConfigError, match="the model has no tap head; it has: embed, attn_in"):
        method("prefix").genotype(ModelShape(2, widths, 100))


def test_a_method_without_a_size_for_the_widths_is_refused():
    shape = encoder_shape(2, 44, 88, 100)
    assert method("krona").misfit(shape) == "a size has to divide both widths"
    with pytest.raises(ConfigError, match="a size has to divide both widths"):
        method("krona").genotype(shape)
    (*_, op) = method("krona").genotype(encoder_shape(2, 40, 80, 100)).ops
    assert op.sizes == (8, 8)


def test_a_method_stands_in_every_layer_of_any_depth():
    for op in method("mam").genotype(encoder_shape(5, 4, 8, 100)).ops:
        assert len(op.sizes) == 5
        assert all(op.sizes)


def test_bitfit_is_the_biases_that_a_model_has():
    """GPT-2's norms come first and are at no tap; Qwen2 has biases at three; Llama has none."""
    norms = {Tap.ATTN_NORM, Tap.FFN_NORM}
    widths = {tap: 4 for tap in Tap if tap not in norms | CROSS}
    weights = {Tap.Q, Tap.K, Tap.V, Tap.ATTN_OUT, Tap.FFN_UP, Tap.FFN_OUT}
    for biased in (weights, {Tap.Q, Tap.K, Tap.V}):
        shape = ModelShape(2, widths, 1000, biased=frozenset(biased))
        genotype = method("bitfit").genotype(shape)
        assert {op.write for op in genotype.ops} == biased
        lost = [tap for tap in Tap if tap in (weights | norms) - biased]
        note = f"goes without biases at {', '.join(lost)}, which the model lacks"
        assert method("bitfit").shortened(shape) == note
        assert method("bitfit").lacking(shape) == ()
    assert method("bitfit").misfit(ModelShape(2, widths, 1000)) == "the model has no biases"
    assert method("bitfit").shortened(BERT_BASE) is None


def test_an_unknown_method_is_refused_with_the_nearest_and_all():
    with pytest.raises(ConfigError, match="no method `holsby`: did you mean `houlsby`") as caught:
        method("holsby")
    assert f"allowed: {', '.join(methods())}" in str(caught.value)


def test_the_table_is_in_the_package():
    assert TABLE.is_file()
    assert all(entry.title and entry.source and entry.formula for entry in methods().values())


def test_a_method_says_which_taps_a_model_lacks():
    widths = {tap: 4 for tap in Tap if tap not in (Tap.ATTN_NORM, Tap.FFN_NORM)}
    shape = ModelShape(2, widths, 1000)
    assert method("pfeiffer").lacking(shape) == (Tap.FFN_NORM,)
    assert method("ln_tuning").lacking(shape) == (Tap.ATTN_NORM, Tap.FFN_NORM)
    assert method("mam").lacking(shape) == ()
