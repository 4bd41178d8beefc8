"""Loading a checkpoint: what was in it, and one clear message where it cannot be used."""

import json
import os
import shutil
import subprocess
import sys
import time
from concurrent.futures import ThreadPoolExecutor

import pytest
import torch
from tiny import (
    DECODERS,
    EVERY,
    N_POSITIONS,
    N_WORDS,
    same_bits,
    state,
    tiny_backbone,
    tiny_batch,
    tiny_model,
)
from tiny_language import tokenizer
from tokenizers import Tokenizer, models, pre_tokenizers, processors
from transformers import (
    AutoModel,
    AutoModelForSequenceClassification,
    GPTNeoXConfig,
    GPTNeoXForSequenceClassification,
    PreTrainedTokenizerFast,
)
from transformers.activations import NewGELUActivation
from transformers.utils import logging

from autopeft.errors import DataError
from autopeft.model.backbone import cast, load_backbone
from autopeft.model.checkpoint import CLASSES

CROSSED_HEAD = (
    *("classification_head.dense.bias", "classification_head.dense.weight"),
    *("classification_head.out_proj.bias", "classification_head.out_proj.weight"),
)
HEADS = dict.fromkeys(DECODERS, ("score.weight",)) | {
    "bart": CROSSED_HEAD,
    "bert": ("classifier.bias", "classifier.weight"),
    "deberta-v2": (
        *("classifier.bias", "classifier.weight"),
        *("pooler.dense.bias", "pooler.dense.weight"),
    ),
    "roberta": (
        *("classifier.dense.bias", "classifier.dense.weight"),
        *("classifier.out_proj.bias", "classifier.out_proj.weight"),
    ),
    "electra": (
        *("classifier.dense.bias", "classifier.dense.weight"),
        *("classifier.out_proj.bias", "classifier.out_proj.weight"),
    ),
    "modernbert": ("classifier.bias", "classifier.weight", "head.dense.weight", "head.norm.weight"),
    "t5": CROSSED_HEAD,
    "distilbert": (
        *("classifier.bias", "classifier.weight"),
        *("pre_classifier.bias", "pre_classifier.weight"),
    ),
}


@pytest.fixture(autouse=True, scope="module")
def _quiet():
    logging.disable_progress_bar()


def save_tokenizer(folder):
    words = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *(f"w{i}" for i in range(N_WORDS - 4))]
    core = Tokenizer(models.WordPiece({w: i for i, w in enumerate(words)}, unk_token="[UNK]"))
    core.pre_tokenizer = pre_tokenizers.Whitespace()
    core.post_processor = processors.TemplateProcessing(
        single="[CLS] $A [SEP]", special_tokens=[("[CLS]", 2), ("[SEP]", 3)]
    )
    special = {"pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]"}
    fast = PreTrainedTokenizerFast(tokenizer_object=core, sep_token="[SEP]", **special)
    fast.save_pretrained(folder)


@pytest.fixture(scope="module")
def saved(tmp_path_factory):
    """A pretrained model of every family, without a head."""
    folder = tmp_path_factory.mktemp("saved")
    for family in EVERY:
        tiny_model(family).base_model.save_pretrained(folder / family)
        save_tokenizer(folder / family)
    return folder


def test_transformers_talks_as_before(saved):
    before = logging.get_verbosity()
    logging.set_verbosity_info()
    logging.enable_progress_bar()
    load_backbone(str(saved / "bert"), 2)
    found = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity(before)
    logging.disable_progress_bar()
    assert found == (logging.INFO, True)


def test_threads_load_one_after_the_other(saved, monkeypatch):
    """Or transformers may leave `tie_weights` and the default dtype as they are while it loads."""
    loading, at_once = [], []

    class Slow(AutoModelForSequenceClassification):
        @classmethod
        def from_pretrained(cls, *args, **more):
            loading.append(None)
            at_once.append(len(loading))
            time.sleep(0.05)
            loading.pop()
            return AutoModelForSequenceClassification.from_pretrained(*args, **more)

    monkeypatch.setitem(CLASSES, None, Slow)
    with ThreadPoolExecutor(3) as pool:
        list(pool.map(lambda _: load_backbone(str(saved / "bert"), 2), range(3)))
    assert at_once == [1, 1, 1]


@pytest.fixture
def checkpoint(saved, tmp_path):
    """A BERT to spoil."""
    return shutil.copytree(saved / "bert", tmp_path / "bert")


@pytest.mark.parametrize("family", EVERY)
def test_a_checkpoint_gets_a_fresh_head(saved, family):
    backbone = load_backbone(str(saved / family), 2)
    assert backbone.fresh == HEADS[family]
    assert backbone.model.config.num_labels == 2
    assert not backbone.model.training
    assert not any(parameter.requires_grad for parameter in backbone.model.parameters())
    assert {p.dtype for p in backbone.model.parameters()} == {torch.float32}
    theirs = tiny_model(family).base_model
    assert backbone.shape.backbone_params == sum(p.numel() for p in theirs.parameters())
    state = backbone.model.base_model.state_dict()
    assert all(torch.equal(state[name], tensor) for name, tensor in theirs.state_dict().items())
    if family != "qwen2":  # transformers reads any vocabulary of a Qwen as byte pairs
        assert backbone.tokenizer("w1 w2").input_ids == [2, 5, 6, 3]
    longest = {"roberta": N_POSITIONS - 2, "t5": sys.maxsize}  # relative positions end nowhere
    assert backbone.tokenizer.model_max_length == longest.get(family, N_POSITIONS)


TELL_REVISION = """
from autopeft.model.backbone import load_backbone
from autopeft.model.checkpoint import commit_of

for name in ("someone/tiny", "someone/tiny@v1", "someone/tiny@" + "0123456789" * 4):
    print(load_backbone(name, 2).revision, commit_of(name))
print(commit_of("someone/other"))
"""


def test_revision_of_a_model_of_the_hub_is_its_commit(saved, tmp_path):
    repository, commits = tmp_path / "models--someone--tiny", ("0123456789" * 4, "a" * 40)
    (repository / "refs").mkdir(parents=True)
    for commit, reference in zip(commits, ("main", "v1"), strict=True):
        shutil.copytree(saved / "bert", repository / "snapshots" / commit)
        (repository / "refs" / reference).write_text(commit)
    environment = os.environ | {"HF_HUB_CACHE": str(tmp_path), "HF_HUB_OFFLINE": "1"}
    command = [sys.executable, "-c", TELL_REVISION]
    told = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert told.returncode == 0, told.stderr
    main, v1 = commits
    assert told.stdout.split() == [main, main, v1, v1, main, main, "None"]
    assert load_backbone(str(saved / "bert"), 2).revision is None


def test_loading_leaves_the_global_generator_alone(saved):
    before = torch.random.get_rng_state()
    load_backbone(str(saved / "bert"), 2)
    assert torch.equal(torch.random.get_rng_state(), before)


def test_the_fingerprint_is_of_the_pretrained_weights(saved, tmp_path):
    first = load_backbone(str(saved / "bert"), 2)
    assert load_backbone(str(saved / "bert"), 3).fingerprint == first.fingerprint
    model = tiny_model("bert").base_model
    model.encoder.layer[2].output.dense.weight[3, 5] += 1e-6
    model.save_pretrained(tmp_path)
    save_tokenizer(tmp_path)
    assert load_backbone(str(tmp_path), 2).fingerprint != first.fingerprint


def test_a_head_in_the_checkpoint_is_kept_if_it_has_the_outputs(checkpoint):
    model = tiny_model("bert", n_outputs=3)
    model.save_pretrained(checkpoint)
    kept = load_backbone(str(checkpoint), 3)
    assert kept.fresh == ()
    assert torch.equal(kept.model.classifier.weight, model.classifier.weight)
    other = load_backbone(str(checkpoint), 2)
    assert other.fresh == HEADS["bert"]
    assert other.model.classifier.out_features == 2


def test_a_pooler_that_was_not_saved_is_fresh(checkpoint):
    model = tiny_model("bert").base_model
    model.pooler = None
    model.save_pretrained(checkpoint)
    pooler = ("bert.pooler.dense.bias", "bert.pooler.dense.weight")
    assert load_backbone(str(checkpoint), 2).fresh == (*pooler, *HEADS["bert"])


def change_config(folder, **values):
    path = folder / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | values))


def truncate(folder):
    path = folder / "model.safetensors"
    path.write_bytes(path.read_bytes()[:-500])


def other_family(folder):
    config = GPTNeoXConfig(
        num_hidden_layers=1, hidden_size=8, num_attention_heads=2, intermediate_size=8
    )
    GPTNeoXForSequenceClassification(config).save_pretrained(folder)


def without_tokenizer(folder):
    for name in ("tokenizer.json", "tokenizer_config.json"):
        (folder / name).unlink()


SPOILT = {
    "missing": (shutil.rmtree, "cannot be loaded: there is no such folder"),
    "empty": (lambda f: [path.unlink() for path in f.iterdir()], "cannot be loaded: "),
    "no weights": (lambda f: (f / "model.safetensors").unlink(), "no file named model.safetensors"),
    "truncated": (truncate, "cannot be loaded: .*not fully covered"),
    "no JSON": (lambda f: (f / "config.json").write_text("{"), "not a valid JSON file"),
    "wrong type": (lambda f: change_config(f, hidden_size="x"), "field 'hidden_size'"),
    "impossible": (lambda f: change_config(f, num_attention_heads=5), "not a multiple"),
    "unknown": (lambda f: change_config(f, model_type="nope"), "model type `nope`"),
    "other family": (
        other_family,
        "`gpt_neox` are not known, and their anatomy cannot be read",
    ),
    "no tokenizer": (without_tokenizer, "has no tokenizer: its vocabulary is empty"),
    "a layer short": (
        lambda f: change_config(f, num_hidden_layers=4),
        "16 parameters of the backbone are not in the checkpoint.*bert.encoder.layer.3.attention",
    ),
    "another width": (
        lambda f: change_config(f, intermediate_size=56),
        "9 parameters of the backbone .* not in the shape that config.json asks for: bert.encoder",
    ),
}


@pytest.mark.parametrize("why", SPOILT)
def test_what_cannot_be_used_is_refused_in_one_line(checkpoint, why):
    spoil, message = SPOILT[why]
    spoil(checkpoint)
    with pytest.raises(DataError, match=message) as caught:
        load_backbone(str(checkpoint), 2)
    text = str(caught.value)
    assert str(checkpoint) in text or why == "other family"
    assert "\n" not in text
    assert "Traceback" not in text


def test_another_precision_is_a_copy_of_the_same_weights():
    backbone = tiny_backbone("bert")
    before = state(backbone.model)
    half = cast(backbone, "bf16")
    assert (half.precision, half.fingerprint) == ("bf16", backbone.fingerprint)
    assert {parameter.dtype for parameter in half.model.parameters()} == {torch.bfloat16}
    assert same_bits(state(backbone.model), before)
    assert all(torch.equal(t, before[name].to(t.dtype)) for name, t in state(half.model).items())
    assert cast(backbone, "fp32") is backbone
    assert cast(half, "bf16") is half


@pytest.mark.parametrize("family", ["llama", "qwen3", "gemma3_text", "modernbert"])
def test_rotary_positions_are_as_exact_in_bf16(family):
    """As `from_pretrained(dtype=torch.bfloat16)` has them."""
    backbone = tiny_backbone(family)
    exact = frequencies(backbone.model)
    half = cast(backbone, "bf16").model
    assert exact
    assert same_bits(frequencies(half), exact)
    assert {parameter.dtype for parameter in half.parameters()} == {torch.bfloat16}
    assert same_bits(frequencies(backbone.model), exact)


def frequencies(model):
    """Of rotary positions, by name."""
    buffers = model.named_buffers(remove_duplicate=False)
    return {name: buffer.clone() for name, buffer in buffers if "inv_freq" in name}


def test_encoder_decoder_has_no_tags_for_words(tmp_path):
    tiny_model("t5").save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(DataError, match="is an encoder-decoder, which has no tags for words"):
        load_backbone(str(tmp_path), 3, writes="tags")


@pytest.mark.parametrize(("family", "n_spelled_out"), [("gpt2", 3), ("bert", 0)])
def test_activations_that_transformers_spells_out_are_one_kernel(saved, family, n_spelled_out):
    plain = AutoModel.from_pretrained(saved / family).eval()
    loaded = load_backbone(str(saved / family), 3).model.base_model

    def count(model):
        return sum(isinstance(module, NewGELUActivation) for module in model.modules())

    assert (count(plain), count(loaded)) == (n_spelled_out, 0)
    with torch.no_grad():
        one, other = (m(**tiny_batch(plain)).last_hidden_state for m in (plain, loaded))
    torch.testing.assert_close(one, other, rtol=0, atol=1e-6)
