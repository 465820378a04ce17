"""Keyword clips between other clips: nothing lost, nothing overlapping, far enough apart."""

from __future__ import annotations

from itertools import pairwise
from pathlib import Path

import numpy as np
import soundfile
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.ops.glue import glue, samples_of
from asrcompress.speech.keyword_datasets import KeywordClip


def clips_of(kinds: list[bool], folder: Path = Path()) -> list[KeywordClip]:
    return [KeywordClip(f"{i}", folder / f"{i}.wav", "go" if kind else "no", kind) for i, kind in enumerate(kinds)]


kinds_and_lengths = st.lists(st.tuples(st.booleans(), st.integers(1, 30)), min_size=2, max_size=20).filter(
    lambda pairs: len({kind for kind, _ in pairs}) == 2
)


@given(kinds_and_lengths, st.integers(0, 60), st.integers(0, 5))
def test_every_keyword_lies_once_in_order_between_others(pairs: list[tuple[bool, int]], gap: int, seed: int) -> None:
    kinds, lengths = [kind for kind, _ in pairs], [length for _, length in pairs]
    placed = glue(clips_of(kinds), lengths, gap=gap, seed=seed)
    assert [each.clip.id for each in placed if each.clip.is_keyword] == [f"{i}" for i, kind in enumerate(kinds) if kind]
    assert placed[0].start == 0
    assert all(before.end == after.start for before, after in pairwise(placed))
    assert all(each.end - each.start == lengths[int(each.clip.id)] for each in placed)
    borders = [0, *(x for each in placed if each.clip.is_keyword for x in (each.start, each.end)), placed[-1].end]
    gaps = np.diff(borders)[::2]
    assert (gaps >= max(gap, 1)).all()
    assert (gaps < max(gap, 1) + max(lengths)).all()


def test_others_are_all_used_before_one_comes_again_and_the_seed_orders_them() -> None:
    clips, lengths = clips_of([False] * 6 + [True] * 5), [10] * 11
    orders = []
    for seed in (0, 0, 1):
        others = [each.clip.id for each in glue(clips, lengths, gap=20, seed=seed) if not each.clip.is_keyword]
        assert len(others) == 12 and len(set(others[:6])) == 6 and others[:6] == others[6:]
        orders.append(others)
    assert orders[0] == orders[1] != orders[2]


def test_samples_come_in_the_order_of_the_recording(tmp_path: Path) -> None:
    clips = clips_of([True, False, False], tmp_path)
    for number, clip in enumerate(clips):
        soundfile.write(clip.audio, np.full(10 + number, 0.25 * number), 16000)
    placed = glue(clips, [10, 11, 12], gap=12, seed=3)
    heard = np.concatenate(list(samples_of(placed, 16000)))
    for each in placed:
        assert (heard[each.start : each.end] == 0.25 * int(each.clip.id)).all()
    assert len(heard) == placed[-1].end
