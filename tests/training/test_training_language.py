"""Trials that write: losses, independence and answers, on tiny models of every family."""

from dataclasses import replace
from functools import partial

import pytest
import torch
from model.test_model_kin import standing
from tiny import LORA, MAM, N_WORDS, as_params, genotype, lora, op, same
from tiny_language import CONFIGS, EOS, HYBRIDS, encoded, language, writing_backbone
from torch.nn.functional import cross_entropy

from autopeft.errors import DataError
from autopeft.model.words import Words, check_words
from autopeft.space.forms import Form
from autopeft.space.taps import Tap
from autopeft.tasks.encode import IGNORED, collate, padded
from autopeft.training import words as words_module
from autopeft.training.cohort import Cohort
from autopeft.training.footprint import trial_bytes
from autopeft.training.settings import TrainingSettings
from autopeft.training.words import losses_of, mean_losses

SETTINGS = TrainingSettings(epochs=1, batch_size=5)
ROWS = [0, 1, 2, 3, 4]
ADAPTER = genotype(same(Form.BOTTLENECK, Tap.FFN_OUT, 4))
FROZEN = genotype()
ON_TOP = genotype(lora(Tap.V, (0, 0, 8)), learning_rate=5e-2)
TRIALS = [LORA, MAM, FROZEN, ADAPTER, ON_TOP]

TWINS = ("mbart", "qwen2")
"""Families built like BART or Llama."""
families = pytest.mark.parametrize("family", as_params(CONFIGS | HYBRIDS, twins=TWINS))


def cohort(family, genotypes, seeds=None, task=None, settings=SETTINGS):
    seeds = range(len(genotypes)) if seeds is None else seeds
    backbone = writing_backbone(family)
    there = [standing(one, backbone.shape) for one in genotypes]
    return Cohort(backbone, there, seeds, task or language(family), settings)


@families
def test_loss_of_a_frozen_model_is_the_models_own(family):
    model, rows = writing_backbone(family).model, encoded(family)
    batch = collate(rows, ROWS, 0)
    targets = batch.targets
    if targets is None:
        targets = padded([rows.answers.targets[row] for row in ROWS], IGNORED)
    own = model(**batch.inputs, labels=targets).loss
    with cohort(family, [FROZEN, LORA]) as trials:
        losses = trials.losses(rows, ROWS)
    torch.testing.assert_close(losses, own.expand(2), rtol=1e-5, atol=1e-6)


@families
def test_trials_do_not_depend_on_their_company(family):
    rows, check = encoded(family), encoded(family, 9, seed=1)
    with cohort(family, TRIALS) as together:
        losses = together.train(rows, order_seed=0)
        written, _ = together.predict(check)
    for i, alone in enumerate(TRIALS):
        with cohort(family, [alone], [i]) as trial:
            assert torch.equal(trial.train(rows, order_seed=0)[:, 0], losses[:, i])
            answers, _ = trial.predict(check)
        assert list(answers[0]) == list(written[i])
    assert losses[-1, 0] != losses[-1, 2]


@families
@pytest.mark.parametrize("beams", [1, 3])
def test_answers_with_kept_keys_are_those_without(family, beams):
    rows = encoded(family, 9, seed=2)
    # A prompt trains alone, so prefixes stand for what the keys do not know of.
    genotypes = [replace(trial, learning_rate=0.05) for trial in (MAM, LORA, ON_TOP)]
    task = language(family, beams=beams)
    with cohort(family, genotypes, task=task) as trials:
        trials.train(encoded(family, n_words=9), order_seed=0)
        kept = trials.answers(rows, list(range(9)))
        again = trials.answers(rows, list(range(9)), cached=False)
    assert kept == again
    assert len({text for some in kept for text in some}) > 1


def test_experts_get_the_tokens_of_all_trials_and_mix_none():
    """What they put out for a token depends on how many others there are, to rounding."""
    trials = [genotype(lora(Tap.Q, 8), lora(Tap.V, 2), learning_rate=0.05), ADAPTER, FROZEN]
    rows, task = encoded("mixtral", n_words=9), language("mixtral")
    with cohort("mixtral", trials, task=task) as together:
        losses = together.train(rows, order_seed=0)
        kept = together.answers(rows, ROWS)
        assert kept == together.answers(rows, ROWS, cached=False)
    for i, alone in enumerate(trials):
        with cohort("mixtral", [alone], [i]) as trial:
            own = trial.train(rows, order_seed=0)[:, 0]
            torch.testing.assert_close(own, losses[:, i], rtol=0, atol=1e-5)
            assert trial.answers(rows, ROWS)[0] == kept[i]
    assert kept[0] != kept[2]


@pytest.mark.parametrize("family", ["gpt2", "llama"])
def test_a_prompt_writes_without_kept_keys(family):
    prompt = genotype(same(Form.PROMPT, Tap.EMBED, (4, 0, 0)), learning_rate=0.5)
    rows = encoded(family, 5, seed=2)
    with cohort(family, [prompt]) as trial:
        trial.train(encoded(family), order_seed=0)
        (written,), _ = trial.predict(rows)
        (again,) = trial.answers(rows, ROWS, cached=False)
    assert [one.text for one in written] == again


@pytest.mark.parametrize("family", ["gpt2", "llama"])
@pytest.mark.parametrize("beams", [1, 3])
def test_gates_write_without_kept_keys_and_see_the_rows_of_their_trial(family, beams):
    gated = genotype(
        same(Form.PREFIX, Tap.HEAD, 4, scale="gated"),
        lora(Tap.V, 8, scale="gated"),
        op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 8, scale="gated"),
        learning_rate=0.05,
    )
    rows, task = encoded(family, 5, seed=2), language(family, beams=beams)
    with cohort(family, [LORA, gated], task=task) as trials:
        trials.train(encoded(family, n_words=9), order_seed=0)
        written, _ = trials.predict(rows)
        kept = [trials.tensors(i) for i in range(2)]
    for i, one in enumerate((LORA, gated)):
        with cohort(family, [one], [i], task=task) as alone:
            alone.load(0, kept[i])
            (again,) = alone.answers(rows, ROWS, cached=False)
        assert [answer.text for answer in written[i]] == again


def test_words_in_passing_count_for_a_trials_memory(monkeypatch):
    backbone, task, rows = writing_backbone("llama"), language("llama"), encoded("llama")
    each = partial(trial_bytes, backbone, [LORA], task=task, settings=SETTINGS, rows=rows)
    with_words = each()
    monkeypatch.setattr(words_module, "MOST_LOGITS", 0)
    longest = int(rows.labels.max())
    monkeypatch.setattr(words_module, "chunks", lambda n_positions, _: [slice(n_positions)])
    assert with_words - each() == 3 * 4 * SETTINGS.batch_size * longest * N_WORDS


@families
def test_greedy_answers_are_the_likeliest_words_one_by_one(family):
    rows = encoded(family, 4, seed=3)
    backbone = writing_backbone(family)
    with cohort(family, [FROZEN]) as trials:
        written, _ = trials.predict(rows)
    for row in range(4):
        assert written[0, row].text == by_hand(backbone, rows, row, n_words=12)


@pytest.mark.parametrize("family", ["llama", "t5"])
@pytest.mark.parametrize("own", [None, 50_256, [7]])
def test_what_was_learnt_as_the_end_ends_answers_beside_the_checkpoints_own(
    family, own, monkeypatch
):
    backbone, rows = writing_backbone(family), encoded(family, 8, seed=3)
    monkeypatch.setattr(backbone.model.generation_config, "eos_token_id", own)
    with cohort(family, [FROZEN]) as trials:
        (written,) = trials.answers(rows, range(8))
    ends = {EOS, 7} if own == [7] else {EOS}
    expected = [by_hand(backbone, rows, row, n_words=12, ends=ends) for row in range(8)]
    assert written == expected
    assert any(len(text.split()) < 11 for text in expected)


def by_hand(backbone, rows, row, n_words, ends=frozenset({EOS})):
    ids, answers = rows.input_ids[row], rows.answers
    model, found = backbone.model, []
    if answers.continues:
        ids = ids[: answers.targets[row].count(IGNORED)]
    start = [] if answers.continues else [model.config.decoder_start_token_id]
    # BART's last word is the end, whatever it says.
    forced = model.generation_config.forced_eos_token_id is not None
    for _ in range(n_words - forced):
        asked = {"input_ids": torch.tensor([ids + found if answers.continues else ids])}
        if not answers.continues:
            asked["decoder_input_ids"] = torch.tensor([start + found])
        mask = torch.ones_like(asked["input_ids"])
        found.append(int(model(**asked, attention_mask=mask).logits[0, -1].argmax()))
        if found[-1] in ends:
            break
    return backbone.tokenizer.decode(found, skip_special_tokens=True).strip()


def test_trial_that_diverges_changes_no_other_one():
    wild = replace(LORA, learning_rate=1e30)
    rows = encoded("llama")
    with cohort("llama", [wild, ADAPTER]) as together:
        losses = together.train(rows, order_seed=0)
        _, finite = together.predict(encoded("llama", 5, seed=1))
    with cohort("llama", [ADAPTER], [1]) as alone:
        assert torch.equal(alone.train(rows, order_seed=0)[:, 0], losses[:, 1])
    assert finite.tolist() == [False, True]


@pytest.mark.parametrize("smoothing", [0.0, 0.2])
def test_losses_and_gradients_in_chunks_are_those_at_once(monkeypatch, smoothing):
    monkeypatch.setattr(words_module, "MOST_LOGITS", 200)  # three positions
    model = writing_backbone("bart").model
    words = Words(model)
    states = torch.randn(2, 10, words._embeddings.weight.shape[1], requires_grad=True)
    labels = torch.randint(0, words.n_words, (10,))
    weights = torch.tensor([1.0, 3.0])
    losses = mean_losses(words, states, labels, smoothing)
    (gradient,) = torch.autograd.grad((losses * weights).sum(), states)
    plain = torch.stack(
        [cross_entropy(words(own), labels, label_smoothing=smoothing) for own in states]
    )
    (expected,) = torch.autograd.grad((plain * weights).sum(), states)
    torch.testing.assert_close(losses, plain)
    torch.testing.assert_close(gradient, expected)
    if not smoothing:
        torch.testing.assert_close(losses_of(words, states, labels).mean(1), plain)


def test_model_with_something_unknown_behind_its_words_is_refused(monkeypatch):
    model = writing_backbone("gpt2").model
    forward = type(model).forward

    def scaled(self, *args, **kwargs):
        out = forward(self, *args, **kwargs)
        out.logits = out.logits * 2
        return out

    monkeypatch.setattr(type(model), "forward", scaled)
    with pytest.raises(DataError, match="`gpt2` do something between their output"):
        check_words(model)


@families
def test_whole_model_is_trained_by_the_gradient_of_its_own_loss(family):
    backbone = writing_backbone(family, seed=1)  # another one: it is changed
    rows, model = encoded(family), backbone.model
    batch = collate(rows, ROWS, 0)
    targets = batch.targets
    if targets is None:
        targets = padded([rows.answers.targets[row] for row in ROWS], IGNORED)
    with Cohort(backbone, [FROZEN], [0], language(family), SETTINGS) as trials:
        model.requires_grad_(requires_grad=True)
        weight = model.get_output_embeddings().weight
        (found,) = torch.autograd.grad(trials.losses(rows, ROWS).sum(), weight)
    model.requires_grad_(requires_grad=True)  # a cohort leaves it as it was
    (own,) = torch.autograd.grad(model(**batch.inputs, labels=targets).loss, weight)
    model.requires_grad_(requires_grad=False)
    torch.testing.assert_close(found, own, rtol=1e-4, atol=1e-6)


LEARNING = {
    "lora": (genotype(*(lora(t, 16, scale=2.0) for t in (Tap.Q, Tap.V, Tap.FFN_UP))), 0.35),
    "adapters": (genotype(same(Form.BOTTLENECK, Tap.FFN_OUT, 32)), 0.35),
    "prefix": (genotype(same(Form.PREFIX, Tap.HEAD, 24)), 0.65),
    "mam": (
        genotype(
            same(Form.PREFIX, Tap.HEAD, 8),
            op(Form.BOTTLENECK, Tap.FFN_IN, Tap.FFN_OUT, 32, scale=4.0),
        ),
        0.35,
    ),
}
"""What is trained, and the part of its loss at the start below which the loss has to fall."""


@pytest.mark.slow
@families
@pytest.mark.parametrize("backwards", [False, True], ids=["copied", "reversed"])
def test_what_was_read_is_written_again(family, backwards):
    rows = encoded(family, 96, n_words=7, backwards=backwards)
    settings = replace(SETTINGS, epochs=40, batch_size=16)
    trials = [replace(trial, learning_rate=2e-2) for trial, _ in LEARNING.values()]
    with cohort(family, trials, [0] * len(trials), settings=settings) as together:
        losses = together.train(rows, order_seed=0)
    left = losses[-10:].mean(0) / losses[0]
    bounds = {name: bound for name, (_, bound) in LEARNING.items()}
    found = dict(zip(bounds, left.tolist(), strict=True))
    assert all(found[name] < bounds[name] for name in bounds), found
