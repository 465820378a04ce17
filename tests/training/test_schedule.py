"""The learning rate and the times of new masks, against their formulas and counted by hand."""

from __future__ import annotations

import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from asrcompress.training.schedule import MASK_SCHEDULES, MaskSchedule, learning_rate


def rates(num_updates: int, warmup: int, **options) -> list[float]:
    return [learning_rate(update, num_updates, peak=2.0, warmup=warmup, **options) for update in range(num_updates)]


def test_warm_up_is_linear_and_reaches_the_peak_at_its_last_update():
    assert rates(100, 4)[:5] == pytest.approx([0.5, 1.0, 1.5, 2.0, 2.0])


def test_without_warm_up_the_first_update_has_the_peak():
    assert rates(10, 0)[0] == 2.0


def test_the_cosine_is_half_way_down_in_the_middle_and_at_the_floor_at_the_end():
    found = rates(110, 10, floor=0.1)
    assert found[60] == pytest.approx(2.0 * (0.1 + 0.9 / 2))
    assert found[35] == pytest.approx(2.0 * (0.1 + 0.9 * (1 + math.sqrt(0.5)) / 2))
    assert learning_rate(110, 110, peak=2.0, warmup=10, floor=0.1) == pytest.approx(0.2)
    assert found[-1] == pytest.approx(0.2, rel=0.01)


@given(st.integers(1, 300), st.floats(0, 1))
def test_no_update_is_without_learning_and_none_is_above_the_peak(num_updates, share):
    warmup = round(share * num_updates)
    found = rates(num_updates, warmup)
    assert all(0 < rate <= 2.0 for rate in found)
    assert found[:warmup] == sorted(found[:warmup])
    assert found[warmup:] == sorted(found[warmup:], reverse=True)


def due(schedule: MaskSchedule, num_updates: int) -> list[int]:
    return [update for update in range(num_updates) if schedule.is_due(update, num_updates)]


def test_one_shot_never_chooses_again():
    assert due(MaskSchedule(), 1000) == []
    assert not MaskSchedule().is_dense


def test_few_shot_chooses_every_so_many_updates_in_the_first_share():
    assert due(MaskSchedule("few-shot", interval=20, until=0.5), 100) == [20, 40]
    assert due(MaskSchedule("few-shot", interval=25, until=0.5), 100) == [25]
    assert due(MaskSchedule("few-shot", interval=25, until=1.0), 100) == [25, 50, 75]
    assert due(MaskSchedule("few-shot", interval=50, until=0.7), 60) == []


def test_every_step_chooses_before_each_update_but_the_first_which_has_the_masks_it_was_given():
    assert due(MaskSchedule("every-step", interval=50, until=0.7), 10) == [1, 2, 3, 4, 5, 6]
    assert due(MaskSchedule("every-step", until=0.0), 10) == []


@pytest.mark.parametrize("kind", MASK_SCHEDULES)
def test_only_masks_that_change_need_gradients_of_what_is_dropped(kind):
    assert MaskSchedule(kind).is_dense == (kind != "one-shot")
