"""Models of many languages: what begins an answer, and what ends one that is cut."""

from dataclasses import replace
from types import SimpleNamespace

import pytest
import torch
from tiny_language import CONFIGS, writing_backbone
from transformers import (
    AutoModelForSeq2SeqLM,
    MBart50Tokenizer,
    MBartForSequenceClassification,
    MBartTokenizer,
)

from autopeft.errors import ConfigError
from autopeft.model.anatomy import Anatomy
from autopeft.model.head import pooled_logits
from autopeft.space.genotype import Genotype
from autopeft.space.taps import Tap
from autopeft.tasks.language import Language, _ends, speak
from autopeft.tasks.spec import GenerationSpec
from autopeft.tasks.splits import Split
from autopeft.training.cohort import Cohort
from autopeft.training.settings import TrainingSettings

EOS, N_NEW = 2, 7
TOKENIZERS = {"behind": MBartTokenizer, "before": MBart50Tokenizer}
"""By where the language of a text is; the first are read with the language of the answer first."""
ROWS = Split("train", (("w1 w2 w3",), ("w4 w5",)), ("w6 w7", "w8 w9 w0 w1 w2 w3 w4 w5 w6"))


def spoken(where, **languages):
    """A tiny mBART with the tokenizer of one kind, and its task."""
    words = ["<s>", "<pad>", "</s>", "<unk>", *(f"▁w{i}" for i in range(10))]
    tokenizer = TOKENIZERS[where](vocab=[(word, -1.0) for word in words], model_max_length=40)
    config = CONFIGS["mbart"]()
    config.vocab_size, config.pad_token_id = len(tokenizer), tokenizer.pad_token_id
    config.forced_eos_token_id = None
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = AutoModelForSeq2SeqLM.from_config(config, attn_implementation="eager")
        for parameter in model.parameters():
            parameter.data += 0.3 * torch.randn_like(parameter)
    model.final_logits_bias[:, 4:14] += 3.0  # words, or a random model hardly writes any
    model.eval().requires_grad_(requires_grad=False)
    shape = Anatomy(model).shape()
    backbone = replace(
        writing_backbone("mbart"), model=model, tokenizer=tokenizer, shape=shape, fresh=()
    )
    generation = GenerationSpec(max_target_length=6, max_new_tokens=N_NEW, **languages)
    return backbone, Language("seq2seq", "exact_match", generation)


def test_norms_come_before_sublayers():
    widths = writing_backbone("mbart").shape.widths
    norms = {Tap.ATTN_NORM, Tap.CROSS_NORM, Tap.FFN_NORM}
    assert set(widths) == set(writing_backbone("bart").shape.widths) - norms


def test_head_reads_what_the_model_gives_it():
    config = CONFIGS["mbart"]()
    config.num_labels, config.decoder_start_token_id = 3, None
    model = MBartForSequenceClassification(config).eval()
    ids = torch.tensor([[5, 6, EOS, 9], [7, EOS, 8, 0]])
    batch = {"input_ids": ids, "attention_mask": ids.ne(0).long()}
    found = pooled_logits(model, ["classification_head"], "eos", batch)
    torch.testing.assert_close(found, model(**batch).logits)


@pytest.mark.parametrize("where", TOKENIZERS)
def test_answers_begin_with_their_language(where):
    backbone, task = spoken(where, source_language="en_XX", target_language="ro_RO")
    model, tokenizer = backbone.model, backbone.tokenizer
    rows = task.encode(ROWS, tokenizer, 12)
    english, romanian = tokenizer.convert_tokens_to_ids(["en_XX", "ro_RO"])
    place = -1 if where == "behind" else 0
    assert [ids[place] for ids in rows.input_ids] == [english] * 2
    assert [ids[place] for ids in rows.answers.targets] == [romanian] * 2
    begun = [romanian] if where == "behind" else [EOS, romanian]
    nothing = Genotype(backbone.shape.n_layers, (), 1e-3)
    settings = TrainingSettings(epochs=1, batch_size=2)
    with Cohort(backbone, [nothing, nothing], [0, 1], task, settings) as trials:
        texts = trials.answers(rows, [0, 1])
    for row in range(2):
        found = list(begun)
        while len(found) <= N_NEW and found[len(begun) :][-1:] != [EOS]:
            ids = torch.tensor([rows.input_ids[row]])
            out = model(
                input_ids=ids,
                attention_mask=torch.ones_like(ids),
                decoder_input_ids=torch.tensor([found]),
            )
            found.append(int(out.logits[0, -1].argmax()))
        text = tokenizer.decode(found, skip_special_tokens=True).strip()
        assert texts[0][row] == texts[1][row] == text
    assert any(texts[0])


@pytest.mark.parametrize("where", TOKENIZERS)
def test_answers_that_are_cut_keep_their_end(where):
    backbone, task = spoken(where, source_language="en_XX", target_language="ro_RO")
    _, cut = task.encode(ROWS, backbone.tokenizer, 12).answers.targets
    romanian = backbone.tokenizer.convert_tokens_to_ids("ro_RO")
    assert len(cut) == 6
    assert cut[-2:] == [EOS, romanian] if where == "behind" else cut[-1] == EOS


@pytest.mark.parametrize(
    ("languages", "message"),
    [
        ({"source_language": "en_XX"}, "generation.target_language: the tokenizer has to be told"),
        ({"target_language": "xx_XX"}, "has no `xx_XX`; allowed: .*ro_RO"),
    ],
)
def test_language_that_is_not_known_is_refused(languages, message):
    backbone, task = spoken("behind", **{"source_language": "en_XX"} | languages)
    with pytest.raises(ConfigError, match=message):
        task.encode(ROWS, backbone.tokenizer, 12)


def test_language_for_a_model_of_one_is_refused():
    task = Language(
        "seq2seq", "exact_match", GenerationSpec(max_target_length=12, target_language="ro_RO")
    )
    with pytest.raises(ConfigError, match="knows no languages"):
        task.encode(ROWS, writing_backbone("bart").tokenizer, 12)


def test_languages_that_a_tokenizer_calls_otherwise_are_told_by_their_tokens():
    """As M2M100's does, which needs sentencepiece."""
    tokenizer = SimpleNamespace(
        src_lang="en",
        tgt_lang=None,
        lang_code_to_token={"en": "__en__", "ro": "__ro__"},
        all_special_tokens=["</s>", "__en__", "__ro__"],
        eos_token_id=EOS,
        convert_tokens_to_ids={"__en__": 7, "__ro__": 8}.__getitem__,
    )
    speak(tokenizer, GenerationSpec(source_language="__ro__", target_language="__en__"))
    assert (tokenizer.src_lang, tokenizer.tgt_lang) == ("ro", "en")
    assert _ends(tokenizer) == {EOS, 7}
