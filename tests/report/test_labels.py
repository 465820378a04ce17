"""Words on pictures of trainings and of running speech: no line goes through them, and they say by what was chosen."""

from __future__ import annotations

import itertools
from xml.etree import ElementTree

import pytest

from asrcompress.report.svg import CHARACTER_WIDTH, Box
from asrcompress.report.trace_plot import trace_plot
from asrcompress.report.trace_rows import read_trace
from asrcompress.report.training_plot import training_plot
from asrcompress.report.training_rows import describe, read_training
from asrcompress.report.trainings_plot import trainings_plot
from tests.fixtures.running_records import long_form
from tests.fixtures.training_records import training
from tests.report.test_training_plot import numbers, styled

# Loss falls while the metric gets a little worse, as of a student at its beginning.
WORSE = ((0, 0.100, 0.72, None, None), (10, 0.103, 0.62, 2.7, None))


def chosen(select: str, best: int, rows: tuple[tuple, ...] = WORSE) -> dict:
    block = training(rows, metric="au_fa_fr", options={"epochs": 5.0, "select": select})
    block["best"] = block["history"][best]
    return block | {"written": {name: block["best"][name] for name in ("metric", "loss")}}


def boxes(svg: ElementTree.Element, halo: float = 0) -> dict[str, Box]:
    found = {}
    for label in styled(svg, "label"):
        x, y, wide = float(label.get("x")), float(label.get("y")), len(label.text) * CHARACTER_WIDTH
        left = x - {"end": wide, "middle": wide / 2}.get(label.get("text-anchor"), 0)
        found[f"{label.text} at {x}, {y}"] = Box(left, y - 10 - halo, left + wide, y + 2 + halo)
    return found


@pytest.mark.parametrize("metric", [0.085, 0.097, 0.0999, 0.1001, 0.103, 0.12])
def test_no_line_goes_through_the_names_of_start_and_end(metric: float) -> None:
    rows = (WORSE[0], (10, metric, 0.62, 2.7, None))
    found = read_training({"training": chosen("loss", 1, rows)}, "x.json")
    svg = ElementTree.fromstring(training_plot(found))
    (series,) = [path for path in styled(svg, "series") if path.get("class") == "series"]
    (x0, y0, x1, y1), (_, start, _) = numbers(series), numbers(styled(svg, "reference")[0])
    named = boxes(svg)
    assert len(named) == 2
    for box in named.values():
        for x in range(int(max(box.left, x0)), int(min(box.right, x1))):
            for y in (start, y0 + (y1 - y0) * (x - x0) / (x1 - x0)):
                assert not box.top < y < box.bottom, (named, x, y)
    first, second = named.values()
    assert first.overlap(second) == 0


@pytest.mark.parametrize(
    ("select", "best", "said"),
    [
        ("loss", 1, "from au_fa_fr 0.1 one-shot to 0.103 after 10 updates, which has the smallest loss; "),
        ("loss", 0, "from au_fa_fr 0.1 one-shot to no smaller loss after 10 updates; "),
        ("last", 1, "from au_fa_fr 0.1 one-shot to 0.103 after 10 updates, which is the last; "),
    ],
)
def test_weights_that_were_not_chosen_by_the_metric_are_not_called_best(select: str, best: int, said: str) -> None:
    found = read_training({"training": chosen(select, best)}, "x.json")
    assert describe(found).startswith(said)
    svg = ElementTree.fromstring(training_plot(found))
    assert any(label.text.startswith("kept 0.1") for label in styled(svg, "label"))
    assert "m: kept 0.1" in trainings_plot([("m.safetensors", found), ("n.safetensors", found)])


def test_the_threshold_is_named_where_no_detection_is() -> None:
    block = long_form()
    last = block["trace"]["clips"][-1]["end_s"]
    for times in ([last - 0.01], [0.3, last - 0.4], [last * step / 5 for step in range(1, 5)]):
        block["trace"]["with_policy"]["detections_s"] = times
        named = boxes(ElementTree.fromstring(trace_plot(read_trace({"long_form": block}, "x.json"))), halo=2)
        assert len(named) == 2 + len(times)
        for (one, box), (other, second) in itertools.combinations(named.items(), 2):
            assert box.overlap(second) == 0, (one, other)
            assert box.right <= 880
