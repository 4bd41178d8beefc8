"""A metric of texts is held against perfect answers before anything is trained."""

import pytest

from autopeft.errors import ConfigError
from autopeft.tasks.ideal import remark_on_ideal
from autopeft.tasks.language import Language
from autopeft.tasks.own_metric import OwnMetric
from autopeft.tasks.splits import Split

WORDS = ("yes", "no", "yes")
SENTENCES = ("a cat sat on the mat", "so did two dogs of hers")
CHINESE = ("今天天气很好。", "我喜欢猫,也喜欢狗。")
RUSSIAN = ("кот сидел на коврике под дверью", "и две собаки тоже там были")


def validation(answers, references=None):
    return Split("validation", tuple((f"t{i}",) for i in range(len(answers))), answers, references)


def remark(metric, answers, references=None, own=None):
    return remark_on_ideal(Language("seq2seq", metric, own=own), validation(answers, references))


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


def test_a_function_of_ones_own_is_left_alone():
    own = OwnMetric("my.py:fn", lambda predictions, references: 0.0, "")
    assert remark("bleu", WORDS, own=own) is None
