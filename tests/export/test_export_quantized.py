"""Exports of trials on a backbone in few bits: what is loaded again computes what was trained."""

import pytest
import torch
from tiny import lora, op, same
from winners import edit_json, make_winner

from autopeft.errors import ConfigError, DataError
from autopeft.export import native, reload
from autopeft.export.card import model_card
from autopeft.export.native import CONFIG
from autopeft.export.proof import TOLERANCE, question_of
from autopeft.export.refusal import refuse, refuse_scheme
from autopeft.export.run import TARGETS
from autopeft.space.forms import Form
from autopeft.space.taps import Tap

pytest.importorskip("bitsandbytes")
pytest.importorskip("accelerate")
# peft asks a model for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")

LORA = (lora(Tap.Q, (1, 0, 9), scale=2.0), lora(Tap.V, 2), lora(Tap.FFN_OUT, 3))
PEFT = {
    "lora": LORA,
    "dora": (op(Form.DORA, Tap.ATTN_IN, Tap.Q, (2, 0, 3), scale=2.0), lora(Tap.FFN_OUT, 3)),
    "vera": (op(Form.VERA, Tap.ATTN_IN, Tap.Q, 5, scale=2.0),),
    "ia3": tuple(same(Form.SCALE, tap) for tap in (Tap.K, Tap.V, Tap.FFN_MID)),
    "biases": tuple(same(Form.BIAS, tap) for tap in (Tap.Q, Tap.FFN_UP)),
}


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("quantized")


def assert_proven(target, home, out, family, scheme, *ops):
    winner = make_winner(home, family, *ops, quantize=scheme)
    refuse(target, winner.genotype, winner.backbone.shape)
    TARGETS[target](winner, out)
    found, _ = reload.answer(question_of(target, out, winner))
    allowed = TOLERANCE[target]
    torch.testing.assert_close(found, winner.logits, rtol=allowed, atol=allowed)
    assert (found - make_winner(home, family, *ops).logits).abs().max() > 100 * allowed
    return winner


@pytest.mark.parametrize(
    ("target", "scheme"),
    [("native", "nf4"), ("native", "int8"), ("merged", "nf4"), ("merged", "int8"), ("peft", "nf4")],
)
def test_what_is_loaded_is_what_was_trained(home, tmp_path, target, scheme):
    assert_proven(target, home, tmp_path, "bert", scheme, *LORA)


@pytest.mark.slow
@pytest.mark.parametrize("family", ["gpt2", "llama", "phi3", "t5"])
@pytest.mark.parametrize("target", ["native", "merged", "peft"])
def test_what_is_loaded_is_what_was_trained_in_every_kind_of_model(home, tmp_path, target, family):
    assert_proven(target, home, tmp_path, family, "nf4", *LORA)


@pytest.mark.slow
@pytest.mark.parametrize(
    ("family", "kind"),
    [
        *((family, kind) for family in ("bert", "gpt2") for kind in PEFT),
        *(("phi3", kind) for kind in ("lora", "dora", "ia3")),
    ],
)
def test_what_peft_holds_it_holds_in_nf4(home, tmp_path, kind, family):
    assert_proven("peft", home, tmp_path, family, "nf4", *PEFT[kind])


def test_an_adapter_names_the_bits_that_it_was_trained_on(home, tmp_path):
    winner = make_winner(home, "bert", *LORA, quantize="nf4")
    TARGETS["native"](winner, tmp_path)
    description, _ = native.read_description(tmp_path)
    assert description == winner.description
    assert description.scheme == "nf4"
    edit_json(tmp_path / CONFIG, lambda data: data["backbone"].update(quantize="int8"))
    with pytest.raises(DataError, match="has other weights"):
        native.load(tmp_path)
    edit_json(tmp_path / CONFIG, lambda data: data["backbone"].update(quantize="int2"))
    with pytest.raises(DataError, match=r"backbone\.quantize .*nf4, int8"):
        native.load(tmp_path)


def test_peft_would_put_int8_on_another_backbone():
    with pytest.raises(ConfigError, match=r"--to peft cannot hold this: .* \(native, merged can\)"):
        refuse_scheme("int8")
    refuse_scheme("nf4")
    refuse_scheme(None)


def test_the_card_of_a_peft_export_loads_the_same_backbone(home):
    winner = make_winner(home, "bert", *LORA, quantize="nf4")
    card = model_card(winner, "peft", "out", "autopeft export it", None, [])
    assert "llm_int8_skip_modules=['bert.pooler.dense', 'classifier']" in card
    assert "num_labels=2, ignore_mismatched_sizes=True, quantization_config=nf4" in card
