"""The peft format: peft alone computes what the ops compute, and finds a place for every weight."""

import json
import subprocess
import sys

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import lora, op, same
from winners import edit_json, make_winner

from autopeft.errors import ConfigError
from autopeft.export import reload
from autopeft.export.proof import question_of
from autopeft.export.refusal import refuse
from autopeft.export.run import TARGETS
from autopeft.export.to_peft import write_peft
from autopeft.space.forms import Activation, Form
from autopeft.space.taps import Tap

# peft asks a model for a property that transformers has renamed.
pytestmark = pytest.mark.filterwarnings("ignore:`is_gradient_checkpointing`:FutureWarning")
WIDER = (Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT)
GELU = {"activation": Activation.GELU}

RANKS = (
    lora(Tap.Q, (1, 0, 9), scale=2.0),
    lora(Tap.Q, 2, scale="learned"),
    lora(Tap.V, (3, 2, 0), scale=4.0),
    lora(Tap.ATTN_OUT, (0, 2, 1)),
    lora(Tap.FFN_UP, 2),
    lora(Tap.FFN_OUT, 3),
    op(Form.LOWRANK_FA, Tap.ATTN_IN, Tap.K, 4, scale=0.5),
    op(Form.VERA, Tap.ATTN_IN, Tap.K, 5),
)
DORA = (op(Form.DORA, Tap.ATTN_IN, Tap.Q, (2, 0, 3), scale=2.0), lora(Tap.FFN_OUT, 3))
VERA = tuple(op(Form.VERA, Tap.ATTN_IN, tap, 5, scale=2.0) for tap in (Tap.Q, Tap.K))
IA3 = tuple(same(Form.SCALE, tap) for tap in (Tap.K, Tap.V, Tap.FFN_MID))
LOKR = (
    op(Form.KRONECKER, Tap.ATTN_IN, Tap.Q, 8, scale=2.0),
    op(Form.KRONECKER, Tap.FFN_MID, Tap.FFN_OUT, (8, 0, 8), scale="learned"),
)
NORMS = tuple(
    same(form, tap) for form in (Form.SCALE, Form.BIAS) for tap in (Tap.ATTN_NORM, Tap.BLOCK_OUT)
)
BIASES = tuple(same(Form.BIAS, tap) for tap in (Tap.Q, Tap.ATTN_OUT, Tap.FFN_UP))
GENOTYPES = {
    "lora": ("LORA", RANKS),
    "dora": ("LORA", DORA),
    "vera": ("VERA", VERA),
    "ia3": ("IA3", IA3),
    "norms": ("LN_TUNING", NORMS),
    "biases": ("LORA", BIASES),
    "lora, norms and biases": ("LORA", (*RANKS, *NORMS, *BIASES)),
    "ia3 and norms": ("IA3", (*IA3, *NORMS)),
    "lokr and norms": ("LOKR", (*LOKR, *NORMS)),
    "head": ("LORA", ()),
}
FUSED = ("lora", "dora", "ia3", "head")
"""What fused projections are tried with; test_export_families.py has other families."""
CASES = [
    *(("bert", name) for name in GENOTYPES),
    *((family, name) for family in ("gpt2", "phi3") for name in FUSED),
    ("gpt2", "biases"),
]


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    return tmp_path_factory.mktemp("peft")


@pytest.mark.parametrize(("family", "name"), CASES)
def test_peft_computes_the_same(home, tmp_path, family, name):
    kind, ops = GENOTYPES[name]
    winner = make_winner(home, family, *ops)
    refuse("peft", winner.genotype, winner.backbone.shape)
    assert TARGETS["peft"](winner, tmp_path) == []
    config = json.loads((tmp_path / "adapter_config.json").read_text(encoding="utf-8"))
    assert config["peft_type"] == kind
    found, _ = reload.answer(question_of("peft", tmp_path, winner))
    torch.testing.assert_close(found, winner.logits, rtol=1e-5, atol=1e-5)
    plain = make_winner(home, family)
    if ops:
        assert (plain.logits - found).abs().max() > 1e-2
    assert all(key.startswith("^") and key.endswith("$") for key in config.get("rank_pattern", {}))


def test_a_weight_that_finds_no_place_is_a_failure(home, tmp_path):
    winner = make_winner(home, "bert", *RANKS)
    TARGETS["peft"](winner, tmp_path)
    path = tmp_path / "adapter_model.safetensors"
    tensors = load_file(path)
    name = next(name for name in tensors if "lora_A" in name)
    save_file({k: t for k, t in tensors.items() if k != name}, path)
    with pytest.raises(RuntimeError, match=r"peft warns: .*missing"):
        reload.answer(question_of("peft", tmp_path, winner))
    save_file(tensors | {"base_model.model.nowhere": torch.zeros(1)}, path)
    with pytest.raises(RuntimeError, match="nowhere"):
        reload.answer(question_of("peft", tmp_path, winner))


def test_a_pattern_that_matches_nothing_is_a_failure(home, tmp_path):
    winner = make_winner(home, "bert", *RANKS)
    TARGETS["peft"](winner, tmp_path)

    def rename(config):
        key = next(iter(config["rank_pattern"]))
        config["rank_pattern"]["^nowhere$"] = config["rank_pattern"].pop(key)

    edit_json(tmp_path / "adapter_config.json", rename)
    with pytest.raises(RuntimeError):
        reload.answer(question_of("peft", tmp_path, winner))


@pytest.mark.parametrize(
    ("ops", "said"),
    [
        ((lora(Tap.Q, 2), IA3[0]), "peft holds one type in a model, and IA3 is another one"),
        ((same(Form.LOWRANK, Tap.Q, 2),), "stands at one weight matrix, from its input"),
        ((same(Form.SCALE, Tap.ATTN_IN),), "scales the output of a weight matrix, or an input"),
        ((same(Form.SCALE, Tap.FFN_MID), same(Form.SCALE, Tap.FFN_OUT)), "not both"),
        ((LOKR[0], lora(Tap.V, 2)), "LoKr is another one than what lowrank v needs"),
        ((LOKR[0], op(Form.KRONECKER, Tap.ATTN_IN, Tap.V, 4)), "q, v: peft's LoKr has one size"),
        ((LOKR[0], op(Form.KRONECKER, Tap.ATTN_IN, Tap.Q, 8)), "does not share its weight"),
        ((same(Form.KRONECKER, Tap.Q, 4),), "peft's LoKr stands at one weight matrix"),
        ((same(Form.BIAS, Tap.FFN_IN),), "biases that the model has"),
        ((DORA[0], lora(Tap.Q, 2)), "DoRA does not share its weight"),
    ],
)
def test_what_peft_cannot_hold_is_refused_by_name(home, tmp_path, ops, said):
    winner = make_winner(home, "bert", *ops)
    with pytest.raises(ConfigError) as refusal:
        refuse("peft", winner.genotype, winner.backbone.shape)
    assert said in str(refusal.value)
    assert str(refusal.value).endswith("; --as-lora R approximates it")
    assert write_peft(winner, tmp_path, as_lora=2)


@pytest.mark.parametrize(
    ("ops", "said"),
    [
        ((same(Form.PREFIX, Tap.HEAD, 2),), "prefix head->head: peft has no prefix (native"),
        ((lora(Tap.Q, 2, scale="gated"),), "its gate is another one for every example"),
        ((op(*WIDER, 2, **GELU), lora(Tap.Q, 1)), "peft has no bottleneck (native, merged, "),
    ],
)
def test_what_no_lora_comes_near_gets_no_such_hint(home, ops, said):
    winner = make_winner(home, "bert", *ops)
    with pytest.raises(ConfigError) as refusal:
        refuse("peft", winner.genotype, winner.backbone.shape)
    assert said in str(refusal.value)
    assert str(refusal.value).endswith(" can)")


@pytest.mark.parametrize("family", ["bert", "gpt2", "phi3"])
def test_as_lora_is_exact_at_full_rank_and_worse_below(home, tmp_path, family):
    ops = (lora(Tap.Q, 3), *IA3, op(Form.KRONECKER, Tap.PRE_O, Tap.ATTN_OUT, 4))
    winner = make_winner(home, family, *ops)
    errors = []
    for rank in (32, 8, 1):
        folder = tmp_path / str(rank)
        folder.mkdir()
        write_peft(winner, folder, as_lora=rank)
        winner.tokenizer.save_pretrained(folder)
        found, _ = reload.answer(question_of("peft", folder, winner))
        errors.append(float((found - winner.logits).norm()))
    assert errors[0] < 1e-3
    assert errors[0] < errors[1] < errors[2]


def test_as_lora_is_the_best_update_of_its_rank(home, tmp_path):
    """Eckart and Young: what is left of a change is its smaller singular values."""
    winner = make_winner(home, "bert", op(Form.KRONECKER, Tap.ATTN_IN, Tap.Q, 4))
    write_peft(winner, tmp_path, as_lora=2)
    a, b = (winner.ops[f"layers.1.kronecker.attn_in.q.{name}"] for name in "ab")
    change = torch.kron(a, b)
    tensors = load_file(tmp_path / "adapter_model.safetensors")
    prefix = "base_model.model.bert.encoder.layer.1.attention.self.query"
    update = tensors[f"{prefix}.lora_B.weight"] @ tensors[f"{prefix}.lora_A.weight"]
    left = torch.linalg.svdvals(change)[2:].norm()
    torch.testing.assert_close((change - update).norm(), left)


def test_as_lora_refuses_what_is_no_update_of_a_weight(home, tmp_path):
    wider = op(*WIDER, 3, **GELU)
    for one, said in (
        (wider, "a wider FFN is no update"),
        (same(Form.PREFIX, Tap.HEAD, 2), "pref"),
    ):
        with pytest.raises(ConfigError, match=f"--as-lora cannot approximate this: .*{said}"):
            write_peft(make_winner(home, "bert", one), tmp_path, as_lora=2)


def test_importing_peft_says_nothing():
    """In a process that has not imported it yet."""
    code = "from autopeft.export.to_peft import _library; _library()"
    command = [sys.executable, "-W", "ignore", "-c", code]
    ran = subprocess.run(command, capture_output=True, text=True, check=True)
    assert (ran.stdout, ran.stderr) == ("", "")
