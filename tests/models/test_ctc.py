"""CTC decoding against brute force over every path, and units as text."""

from __future__ import annotations

import itertools

import numpy as np
import pytest

from asrcompress.models import ctc, text


def collapse(path: tuple[int, ...]) -> tuple[int, ...]:
    return tuple(unit for unit, _ in itertools.groupby(path) if unit != ctc.BLANK)


def by_enumeration(probs: np.ndarray) -> dict[tuple[int, ...], float]:
    """Probability of every unit sequence: the sum over all units**frames paths."""
    found: dict[tuple[int, ...], float] = {}
    for path in itertools.product(range(probs.shape[1]), repeat=len(probs)):
        probability = float(np.prod([probs[frame, unit] for frame, unit in enumerate(path)]))
        found[collapse(path)] = found.get(collapse(path), 0.0) + probability
    return found


def random_probs(seed: int, frames: int, units: int) -> np.ndarray:
    random = np.random.default_rng(seed)
    probs = np.exp(random.standard_normal((frames, units)) * 1.5)
    return probs / probs.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(20))
def test_a_beam_that_holds_everything_is_exact(seed: int) -> None:
    probs = random_probs(seed, frames=1 + seed % 6, units=2 + seed % 3)
    found = by_enumeration(probs)
    units, log_probability = ctc.prefix_beam_search(np.log(probs), 10_000)
    assert tuple(units) == max(found, key=found.__getitem__)
    assert log_probability == pytest.approx(np.log(max(found.values())), rel=1e-12, abs=1e-12)


def test_the_sum_over_paths_beats_the_best_path() -> None:
    """The textbook case: blank is the best path's every frame, and 1 the more probable text."""
    probs = np.array([[0.6, 0.4], [0.6, 0.4]])
    assert ctc.greedy(np.log(probs)) == []
    units, log_probability = ctc.prefix_beam_search(np.log(probs), 2)
    assert units == [1] and np.exp(log_probability) == pytest.approx(1 - 0.36)


@pytest.mark.parametrize("seed", range(5))
def test_a_narrow_beam_finds_no_more_than_there_is_and_a_wider_one_no_less(seed: int) -> None:
    probs = random_probs(seed, frames=6, units=4)
    found = by_enumeration(probs)
    scores = []
    for beam in (1, 2, 4, 16, 10_000):
        units, score = ctc.prefix_beam_search(np.log(probs), beam)
        assert np.exp(score) <= found[tuple(units)] * (1 + 1e-12)
        scores.append(score)
    assert scores[-1] == max(scores)


def test_a_unit_twice_needs_a_blank_between() -> None:
    with np.errstate(divide="ignore"):
        certain = np.log(np.eye(3))
    path = [1, 1, 0, 1, 2, 2, 0, 0]
    assert ctc.greedy(certain[path]) == [1, 1, 2]
    assert ctc.prefix_beam_search(certain[path], 3) == ([1, 1, 2], 0.0)


def test_no_frames_are_no_units() -> None:
    nothing = np.zeros((0, 5))
    assert ctc.greedy(nothing) == [] and ctc.prefix_beam_search(nothing, 4) == ([], 0.0)


def test_a_long_search_stays_in_range() -> None:
    """Thousands of frames: probabilities below the smallest double, logarithms are not."""
    probs = random_probs(0, frames=2000, units=30)
    units, score = ctc.prefix_beam_search(np.log(probs), 3)
    assert np.isfinite(score) and score < -745 and len(units) > 100


@pytest.mark.parametrize("symbols", [["|", "A", "B"], ["\u2581", "A", "B"]])
def test_text_is_fairseqs(symbols: list[str]) -> None:
    from fairseq.data import Dictionary
    from fairseq.data.data_utils import post_process

    dictionary = Dictionary()
    for symbol in symbols:
        dictionary.add_symbol(symbol)
    kind = ctc.text_units("wrd", symbols)
    units = [5, 6, 4, 4, 5, 3, 0, 2, 6, 4]
    theirs = post_process(dictionary.string(units), {"letters": "letter"}.get(kind, kind))
    assert ctc.to_text(units, symbols, kind) == theirs == "AB  A<unk>B"


@pytest.mark.parametrize(
    ("labels", "symbols", "kind"),
    [
        ("ltr", ["A", "B"], text.LETTERS), ("ltr", ["\u2581A"], text.LETTERS), ("spm", ["A", "\u2581B"], text.SENTENCEPIECE),
        ("chars", ["|", "A"], text.LETTERS), ("wrd", ["GO", "STOP"], text.WORDS),
    ],
)  # fmt: skip
def test_kinds_of_units(labels: str, symbols: list[str], kind: str) -> None:
    assert ctc.text_units(labels, symbols) == kind


def test_words_are_parted_and_padding_is_left_out() -> None:
    assert ctc.to_text([4, 1, 5], ["GO", "LEFT"], text.WORDS) == "GO LEFT"
