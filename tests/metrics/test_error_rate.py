"""Corpus WER and CER against an edit distance of the tests' own, and every empty case."""

from __future__ import annotations

import json

import jiwer
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from asrcompress.metrics.error_rate import score
from asrcompress.metrics.normalizers import get_normalizer

NONE, BASIC = get_normalizer("none"), get_normalizer("basic")
TEXTS = st.lists(st.sampled_from(["a", "b", "bb", "c", "ab"]), max_size=6).map(" ".join)
PAIRS = st.lists(st.tuples(TEXTS, TEXTS), min_size=1, max_size=6)


def distance(reference, hypothesis):
    """Levenshtein's distance, by the textbook recurrence."""
    row = list(range(len(hypothesis) + 1))
    for i, left in enumerate(reference, start=1):
        previous, row = row, [i]
        for j, right in enumerate(hypothesis, start=1):
            row.append(min(row[-1] + 1, previous[j] + 1, previous[j - 1] + (left != right)))
    return row[-1]


@given(PAIRS)
@settings(deadline=None)
def test_errors_are_the_edit_distance_utterance_by_utterance(pairs):
    references, hypotheses = map(list, zip(*pairs, strict=True))
    result = score(references, hypotheses, normalizer=NONE)
    for (reference, hypothesis), utterance in zip(pairs, result.per_utterance, strict=True):
        for counts, left, right in (
            (utterance.words, reference.split(), hypothesis.split()),
            (utterance.chars, reference, hypothesis),
        ):
            assert counts.num_errors == distance(left, right)
            assert counts.num_reference == len(left)
            assert counts.insertions - counts.deletions == len(right) - len(left)
            assert min(counts.substitutions, counts.insertions, counts.deletions) >= 0


@given(PAIRS)
@settings(deadline=None)
def test_corpus_rate_is_all_errors_over_all_reference_words(pairs):
    references, hypotheses = map(list, zip(*pairs, strict=True))
    result = score(references, hypotheses, normalizer=NONE)
    num_words = sum(len(reference.split()) for reference in references)
    errors = sum(distance(left.split(), right.split()) for left, right in pairs)
    num_chars = sum(map(len, references))
    char_errors = sum(distance(left, right) for left, right in pairs)
    assert result.num_reference_words == num_words
    assert result.substitutions + result.insertions + result.deletions == errors
    assert result.wer == (errors / num_words if num_words else None)
    assert result.num_reference_chars == num_chars
    assert result.char_substitutions + result.char_insertions + result.char_deletions == char_errors
    assert result.cer == (char_errors / num_chars if num_chars else None)
    assert result.num_utterances == len(pairs)
    assert result.num_empty_references == references.count("")
    assert result.num_empty_hypotheses == hypotheses.count("")
    if num_words:
        assert result.wer == pytest.approx(jiwer.wer(references, hypotheses), abs=0)
        assert result.cer == pytest.approx(jiwer.cer(references, hypotheses), abs=0)


def test_worked_example():
    result = score(["the cat sat", "on the mat"], ["the cat sat down", "on mad"], normalizer=NONE)
    assert (result.substitutions, result.insertions, result.deletions) == (1, 1, 1)
    assert result.num_reference_words == 6
    assert result.wer == 0.5
    assert [utterance.words.rate for utterance in result.per_utterance] == [1 / 3, 2 / 3]


def test_corpus_rate_is_not_the_mean_of_utterance_rates():
    result = score(["a", "a b c d e f g h i"], ["x", "a b c d e f g h i"], normalizer=NONE)
    assert result.wer == 0.1


def test_lines_of_one_character_count():
    """jiwer's command line drops them and says 0.0."""
    assert score(["a", "b c"], ["x", "b c"], normalizer=NONE).wer == 1 / 3


def test_an_empty_hypothesis_deletes_every_word():
    result = score(["a b", "c"], ["", "c"], normalizer=NONE)
    assert (result.deletions, result.num_empty_hypotheses) == (2, 1)
    assert result.wer == 2 / 3


def test_an_empty_reference_counts_its_insertions():
    result = score(["", "a b"], ["x y z", "a b"], normalizer=NONE)
    assert (result.insertions, result.num_reference_words, result.num_empty_references) == (3, 2, 1)
    assert result.wer == 1.5
    assert result.per_utterance[0].words.rate is None


@pytest.mark.parametrize("hypothesis", ["", "one two"])
def test_references_without_words_have_no_rate(hypothesis):
    result = score(["", " \t"], [hypothesis, hypothesis], normalizer=NONE)
    assert result.wer is None
    assert result.cer is None
    assert result.num_empty_references == 2
    assert result.insertions == 2 * len(hypothesis.split())


def test_a_reference_may_become_empty_by_normalisation():
    result = score(["...", "Yes."], ["", "yes"], normalizer=BASIC)
    assert (result.num_empty_references, result.num_empty_hypotheses, result.wer) == (1, 1, 0)
    assert (result.per_utterance[1].reference, result.per_utterance[1].hypothesis) == ("yes", "yes")


def test_the_normaliser_applies_to_both_sides():
    assert score(["Yes, I DO"], ["yes i do!"], normalizer=BASIC).wer == 0
    assert score(["Yes, I DO"], ["yes i do!"], normalizer=NONE).wer == 1


@pytest.mark.parametrize("space", ["\t", "\n", "\u00a0", "  ", " \t "])
def test_any_whitespace_separates_words_and_is_one_character(space):
    result = score([f" one{space}two "], ["one two"], normalizer=NONE)
    assert (result.wer, result.cer, result.num_reference_words, result.num_reference_chars) == (0, 0, 2, 7)


def test_nothing_to_score():
    result = score([], [], normalizer=NONE)
    assert (result.wer, result.cer, result.num_utterances, result.per_utterance) == (None, None, 0, ())


def test_a_missing_hypothesis_is_a_bug():
    with pytest.raises(ValueError, match="2 references, but 1 hypotheses"):
        score(["a", "b"], ["a"], normalizer=NONE)


def test_metrics_are_flat_and_json():
    metrics = score(["", "a"], ["", "b"], normalizer=NONE).metrics()
    assert "per_utterance" not in metrics
    assert json.loads(json.dumps(metrics, allow_nan=False)) == metrics
    assert metrics["wer"] == 1
