"""What comes of a language model's last states, and which of its weights count."""

from functools import partial

import pytest
import torch
from safetensors.torch import load_file, save_file
from tiny import D_FFN, D_MODEL, N_HEADS, N_LAYERS, N_POSITIONS
from tiny_language import SPECIAL, kind_of, tokenizer, writing_backbone
from transformers import (
    AutoConfig,
    AutoModelForCausalLM,
    ElectraConfig,
    ElectraForCausalLM,
    Gemma3TextConfig,
)

from autopeft.errors import DataError
from autopeft.model.backbone import load_backbone
from autopeft.model.words import Words, check_order, check_words, word_states


def biased():
    """BART, some words of which are likelier whatever it read."""
    model = writing_backbone("bart", seed=2).model
    model.final_logits_bias.copy_(torch.randn(model.final_logits_bias.shape))
    return model


def capped(**more):
    """Gemma, whose logits are held to a range."""
    config = Gemma3TextConfig(
        hidden_size=D_MODEL,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_HEADS // 2,
        head_dim=D_MODEL // N_HEADS,
        intermediate_size=D_FFN,
        max_position_embeddings=N_POSITIONS,
        final_logit_softcapping=0.5,
        **SPECIAL,
        **more,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


def scaled(family, **more):
    """Cohere or Granite, whose logits are multiplied or divided."""
    config = AutoConfig.for_model(
        family,
        hidden_size=D_MODEL,
        num_hidden_layers=N_LAYERS,
        num_attention_heads=N_HEADS,
        num_key_value_heads=N_HEADS // 2,
        intermediate_size=D_FFN,
        max_position_embeddings=N_POSITIONS,
        **SPECIAL,
        **more,
    )
    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(config).eval()


MULTIPLIED = partial(scaled, "cohere", logit_scale=0.25)
DIVIDED = partial(scaled, "granite", logits_scaling=8.0)


@pytest.mark.parametrize("make", [biased, capped, MULTIPLIED, DIVIDED])
@torch.no_grad()
def test_words_are_what_the_model_says(make):
    model = make()
    check_words(model)
    ids = torch.tensor([[5, 6, 7], [8, 9, 10]])
    inputs = {"input_ids": ids, "attention_mask": torch.ones_like(ids)}
    if model.config.is_encoder_decoder:
        inputs["decoder_input_ids"] = ids
    words = Words(model)(word_states(model, inputs))
    torch.testing.assert_close(words, model(**inputs).logits)


def saved(family, folder, change=None):
    """The checkpoint of a tiny model, a tensor of it changed or left out."""
    backbone = writing_backbone(family)
    backbone.model.save_pretrained(folder)
    tokenizer().save_pretrained(folder)
    if change is not None:
        file = folder / "model.safetensors"
        tensors = load_file(file)
        change(tensors)
        save_file(tensors, file, metadata={"format": "pt"})
    return load_backbone(str(folder), 0, writes=kind_of(family))


@pytest.mark.parametrize(
    ("family", "name"),
    [("t5", "decoder.block.1.layer.2.DenseReluDense.wo.weight"), ("llama", "lm_head.weight")],
)
def test_every_pretrained_weight_counts(tmp_path, family, name):
    def moved(tensors):
        tensors[name] = tensors[name] + 1

    plain = saved(family, tmp_path / "plain")
    assert plain.fresh == ()
    assert saved(family, tmp_path / "moved", moved).fingerprint != plain.fingerprint

    def left_out(tensors):
        del tensors[name]

    with pytest.raises(DataError, match="1 parameters of the backbone are not in the checkpoint"):
        saved(family, tmp_path / "less", left_out)


def electra():
    sizes = {"hidden_size": D_MODEL, "embedding_size": D_MODEL, "intermediate_size": D_FFN}
    layers = {"num_hidden_layers": N_LAYERS, "num_attention_heads": N_HEADS}
    return ElectraForCausalLM(ElectraConfig(**sizes, **layers, **SPECIAL)).eval()


def test_a_model_whose_tokens_see_those_behind_them_does_not_write_on(tmp_path):
    electra().save_pretrained(tmp_path)
    tokenizer().save_pretrained(tmp_path)
    with pytest.raises(DataError, match=r"does not write what comes next: .* behind it"):
        load_backbone(str(tmp_path), 1, writes="causal")
    with pytest.raises(DataError, match="does not write what comes next"):
        check_order(capped(use_bidirectional_attention=True))
    check_order(capped())
