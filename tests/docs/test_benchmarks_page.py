"""docs/benchmarks.md: made of what the benches left, and of nothing else; the script names the benches that are there."""

from __future__ import annotations

import copy
import re
import sys
from typing import Any

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))  # the generator is a package of its own there

from benchmarks import encoder, evaluation, packing, page, records

RECORDS = records.read_records()


def test_the_page_is_up_to_date() -> None:
    assert page.main(["--check"]) == 0, "run PYTHONPATH=tools python -m benchmarks.page"


@pytest.mark.parametrize("name", RECORDS)
def test_every_figure_is_on_the_page(name: str) -> None:
    changed: dict[str, Any] = copy.deepcopy(RECORDS)
    for row in changed[name]["rows"]:
        for key, value in row.items():
            if isinstance(value, int | float) and not isinstance(value, bool):
                row[key] = value * 3 + 1
    assert page.render(changed) != page.render(RECORDS)


def test_what_was_not_measured_says_so_and_how_to() -> None:
    text = page.render({})
    for name in records.NAMES:
        assert f"Not measured yet: `bash tools/bench.sh {name}`." in text


def test_the_script_and_the_page_know_the_same_benches() -> None:
    script = (ROOT / "tools" / "bench.sh").read_text()
    (names,) = re.findall(r"^\[ \$# -gt 0 \] \|\| names=\((.*)\)$", script, re.MULTILINE)
    assert set(names.split()) == set(records.NAMES)
    assert all((ROOT / "tests" / "bench" / f"bench_{name}.py").is_file() for name in records.NAMES)


def encoder_rows(ours_ms: float, ort_ms: float) -> list[dict[str, Any]]:
    def row(name: str, cpu_ms: float) -> dict[str, Any]:
        facts = {
            "part": "layers",
            "dim": 256,
            "batch": 1,
            "label": name,
            "contestant": name,
            "relative_error": 0.0,
            "gops": 1.0,
        }
        return facts | {"cpu_ms": cpu_ms, "speed_vs_torch": 100 / cpu_ms, "speed_vs_ort-int8": ort_ms / cpu_ms}

    return [row("ours", ours_ms), row("torch", 100.0), row("ort-int8", ort_ms)]


@pytest.mark.parametrize(("ours_ms", "words"), [(40.0, "is met"), (50.0, "is met"), (51.0, "is not met")])
def test_the_encoder_goal_is_judged_by_its_ratio(ours_ms: float, words: str) -> None:
    assert words in encoder.verdict(encoder_rows(ours_ms, 50.0))


def test_a_goal_met_at_one_size_alone_is_not_met_everywhere() -> None:
    other = [row | {"dim": 512} for row in encoder_rows(60.0, 50.0)]
    assert "is not met everywhere" in encoder.verdict(encoder_rows(40.0, 50.0) + other)


@pytest.mark.parametrize(
    ("speeds", "words"), [([1.5, 2.0], "is met."), ([1.49, 1.6], "is met in part."), ([1.4, 1.2], "is not met.")]
)
def test_the_goal_of_eval_is_judged_at_each_batch(speeds: list[float], words: str) -> None:
    rows = [
        {"system": "computed", "batch_size": size, "speed_vs_float_real_time": speed}
        for size, speed in enumerate(speeds)
    ]
    assert words in evaluation.verdict(rows)


def test_a_peer_that_does_not_run_is_a_line() -> None:
    rows = [
        *encoder_rows(40.0, 50.0),
        {"part": "layers", "dim": 256, "batch": 1, "contestant": "quanto", "label": "quanto", "error": "No: no"},
    ]
    assert "| quanto | does not run: No: no |" in encoder.milliseconds(rows)


def packing_rows(ratio: float, times: float) -> list[dict[str, Any]]:
    speed = {"where": "from disk", "job": "int4", "per_cpu_s_gbps": 1.0, "per_wall_s_gbps": 1.0}
    return [
        speed | {"job": "copy", "tool": "read and write", "beside_copy_ratio": 1.0, "asrcompress_times_as_fast": None},
        speed | {"tool": "asrcompress", "beside_copy_ratio": ratio, "asrcompress_times_as_fast": None},
        speed | {"tool": "quanto", "beside_copy_ratio": 0.1, "asrcompress_times_as_fast": times},
    ]


@pytest.mark.parametrize(
    ("ratio", "times", "words"),
    [
        (0.3, 1.1, ["0.3, is met.", "as the others at the same job."]),
        (0.29, 0.9, ["is not met.", "so not faster everywhere."]),
    ],
)
def test_the_goals_of_packing_are_judged_by_their_ratios(ratio: float, times: float, words: list[str]) -> None:
    assert all(word in packing.verdict(packing_rows(ratio, times)) for word in words)


def test_a_peer_with_a_smaller_file_is_named() -> None:
    shape = {
        "layers": "a",
        "codes": "int4",
        "scales": "per channel",
        "theory_bytes": 90,
        "file_beside_theory_ratio": 1.1,
    }
    ours, theirs = shape | {"tool": "asrcompress", "file_bytes": 100}, shape | {"tool": "quanto"}
    assert "Nobody is smaller" in packing.sizes({"rows": [ours, theirs | {"file_bytes": 100}]})
    assert "Smaller than asrcompress at the same bits: quanto, a, int4, per channel." in packing.sizes(
        {"rows": [ours, theirs | {"file_bytes": 99}]}
    )


def test_no_place_is_named() -> None:
    for path in [page.PAGE, *records.FOLDER.iterdir()]:
        assert not re.search(r"/(home|root|tmp|work|mnt|Users)/", path.read_text(encoding="utf-8")), path.name
