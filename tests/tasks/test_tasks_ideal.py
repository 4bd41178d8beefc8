"""A metric of texts is held against perfect answers before anything is trained."""

import pytest
from tiny_language import kind_of, tokenizer

from autopeft.errors import ConfigError
from autopeft.tasks.ideal import remark_on_ideal, remark_on_tokens
from autopeft.tasks.language import Language
from autopeft.tasks.own_metric import OwnMetric
from autopeft.tasks.spec import GenerationSpec
from autopeft.tasks.splits import Split

WORDS = ("yes", "no", "yes")
SENTENCES = ("a cat sat on the mat", "so did two dogs of hers")
CHINESE = ("今天天气很好。", "我喜欢猫,也喜欢狗。")
RUSSIAN = ("кот сидел на коврике под дверью", "и две собаки тоже там были")


def validation(answers, references=None):
    return Split("validation", tuple((f"t{i}",) for i in range(len(answers))), answers, references)


def remark(metric, answers, references=None, own=None):
    return remark_on_ideal(Language("seq2seq", metric, own=own), validation(answers, references))


def written_remark(family, metric, answers, references=None, own=None, **generation):
    spec = GenerationSpec(**{"max_target_length": 12} | generation)
    task = Language(kind_of(family), metric, spec, own=own)
    return remark_on_tokens(task, validation(answers, references), tokenizer())


@pytest.mark.parametrize(
    ("metric", "answers", "fit"),
    [
        ("bleu", WORDS, "four words, .*; take chrf, rouge_1, rouge_l, exact_match or likelihood"),
        ("bleu", CHINESE, r"take chrf, exact_match or likelihood"),
        ("rouge_2", WORDS, "pairs of words of a-z"),
        ("rouge_l", RUSSIAN, "take bleu, chrf, exact_match or likelihood"),
    ],
)
def test_a_metric_that_gives_perfect_answers_nothing_is_refused(metric, answers, fit):
    with pytest.raises(ConfigError, match=f"metric: '{metric}' of perfect .* is 0.00 .*{fit}"):
        remark(metric, answers)


def test_a_metric_that_misses_some_answers_is_told():
    told = remark("rouge_l", (*SENTENCES, *RUSSIAN))
    assert "'rouge_l' of perfect answers on the validation rows is 0.50" in told
    assert told.endswith("take bleu, chrf, exact_match or likelihood, which give them 1")


@pytest.mark.parametrize("metric", ["bleu", "chrf", "rouge_1", "rouge_2", "rouge_l"])
def test_nothing_is_said_of_sentences(metric):
    assert remark(metric, SENTENCES) is None


def test_the_ideal_answer_is_one_of_several_references():
    several = tuple((one, "something else", one.upper()) for one in SENTENCES)
    assert remark("bleu", SENTENCES, several) is None


@pytest.mark.parametrize("metric", ["chrf", "exact_match", "likelihood"])
@pytest.mark.parametrize("answers", [WORDS, CHINESE, RUSSIAN, ("a", "b")])
def test_these_take_any_answers(metric, answers):
    assert remark(metric, answers) is None


@pytest.mark.parametrize("family", ["t5", "gpt2"])
@pytest.mark.parametrize("metric", ["exact_match", "chrf", "rouge_l"])
def test_answers_that_the_model_has_no_tokens_for_are_refused_or_told(family, metric):
    every, some = ("w3 Rome", "w4 w5 Rome"), ("w3 w4 Rome", "w5 w6 w7 w8")
    if metric == "exact_match":
        with pytest.raises(ConfigError, match=r"is 0\.00 .*2 of 2 .*as 'w3 Rome' becomes 'w3'"):
            written_remark(family, metric, every)
    told = written_remark(family, metric, some)
    assert f"'{metric}' of perfect answers on the validation rows is 0." in told
    assert "1 of 2 come out as others, as 'w3 w4 Rome' becomes 'w3 w4'" in told
    assert "cut" not in told


@pytest.mark.parametrize("family", ["t5", "gpt2"])
def test_what_no_model_can_write_in_so_many_tokens_is_told(family):
    long = ("w3 w4 w5 w6 w7", "w8 w9")
    assert "is 0.50 once" in written_remark(family, "exact_match", long, max_new_tokens=4)
    cut = written_remark(family, "exact_match", long, max_target_length=4)
    assert cut.endswith("; 1 are cut at generation.max_target_length: 4")


@pytest.mark.parametrize("metric", ["exact_match", "bleu", "likelihood"])
def test_nothing_is_said_of_answers_that_can_be_written(metric):
    assert written_remark("t5", metric, ("w3 w4 w5  w6", "w5 w7 w3 w9")) is None
    first = (("w3 w4 w5 w6", "Rome"), ("w5 w7 w3 w9", "Rome"))
    assert written_remark("t5", metric, ("Rome", "Rome"), first) is None


def test_tokens_cost_nothing_where_the_metric_is_likelihood_or_ones_own():
    assert written_remark("t5", "likelihood", ("Rome", "Rome")) is None
    own = OwnMetric("my.py:fn", lambda predictions, references: 0.0, "")
    assert written_remark("t5", "bleu", ("Rome", "Rome"), own=own) is None


def test_a_function_of_ones_own_is_left_alone():
    own = OwnMetric("my.py:fn", lambda predictions, references: 0.0, "")
    assert remark("bleu", WORDS, own=own) is None
