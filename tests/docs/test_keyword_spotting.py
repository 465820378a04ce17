"""docs/keyword-spotting.md: made of its figures, which are those of sidecars, and of nothing else."""

from __future__ import annotations

import copy
import json
import re
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from tests.conftest import ROOT

sys.path.insert(0, str(ROOT / "tools"))  # the script is a package of its own there

from experiments import kws_page, kws_results

RESULTS: dict[str, Any] = json.loads(kws_results.FILE.read_text())
FILES = RESULTS["files"]


def test_the_page_is_up_to_date() -> None:
    assert kws_page.main(["--check"]) == 0


@pytest.mark.parametrize("name", [kws_results.NO_LOSS, kws_results.SMALLEST])
def test_a_change_of_a_figure_changes_the_page(name: str) -> None:
    for key in ("size_bytes", "thop_conv_bias_macs", "au_fa_fr"):
        changed = copy.deepcopy(RESULTS)
        changed["files"][name][key] *= 2
        assert kws_page.render(changed) != kws_page.render(RESULTS)


def test_every_row_has_the_published_columns() -> None:
    page = kws_page.PAGE.read_text()
    for labels in (kws_results.STUDENTS, kws_results.INT8, kws_results.PACKED):
        for name, label in labels.items():
            (line,) = [line for line in page.splitlines() if line.startswith(f"| {label} |") and line.count("|") == 10]
            cells = [cell.strip() for cell in line.strip("|").split("|")]
            file, base = FILES[name], FILES[kws_results.PUBLISHED]
            assert [int(cells[index].replace(",", "")) for index in (1, 3, 4)] == [
                file["num_params"], file["size_bytes"], file["thop_conv_bias_macs"],
            ]  # fmt: skip
            assert float(cells[2]) == pytest.approx(file["num_params"] * 4 / 2**20, abs=1e-5)
            assert float(cells[5]) == pytest.approx(file["au_fa_fr"], abs=6e-7)
            assert float(cells[6].rstrip("x")) == pytest.approx(base["size_bytes"] / file["size_bytes"], abs=6e-3)


def test_sizes_of_the_published_report_come_out() -> None:
    # Parameters and MACs of its table.
    published = {
        "base": (70_443, 119_527_424),
        "c4h32": (18_071, 35_613_696),
        "c4h16": (6_679, 19_321_856),
        "c2h12-s1": (3_133, 9_431_040),
    }
    for name, (num_params, macs) in published.items():
        assert (FILES[name]["num_params"], FILES[name]["thop_conv_bias_macs"]) == (num_params, macs)


def test_bytes_are_explained_to_the_last() -> None:
    for file in FILES.values():
        assert sum(file["ledger"].values()) == file["size_bytes"]


def test_few_bits_are_integers_all_the_way() -> None:
    for name in [
        *kws_results.PACKED,
        *(f"{row}-s{seed}" for row in ("c2h12-int2", "c2h12-int2t") for seed in kws_results.SEEDS),
    ]:
        assert (FILES[name]["level"], FILES[name]["violations"], FILES[name]["num_float_ops"]) == ("integer-only", 0, 0)


def test_sidecars_of_two_files_are_no_row(tmp_path: Path) -> None:
    for kind, sha256 in (("eval", "0" * 64), ("analyze", "1" * 64)):
        record = {"model": {"sha256": sha256}, "metrics": {}, "intervals": {"au_fa_fr": {}}}
        (tmp_path / f"base.{kind}.json").write_text(json.dumps(record))
    with pytest.raises(ValueError, match="of different files"):
        kws_results._file(tmp_path, "base")


def test_the_script_makes_every_row_of_the_page() -> None:
    script = (ROOT / "tools" / "kws.sh").read_text()
    subprocess.run(["bash", "-n", ROOT / "tools" / "kws.sh"], check=True)
    for name in FILES:
        assert re.sub(r"-s\d", "-s", name) in script.replace("$seed", "").replace("$name", "base") or name in script, (
            name
        )
    done = subprocess.run(
        ["bash", ROOT / "tools" / "kws.sh", tmp := "/nonexistent"], capture_output=True, text=True, check=False
    )
    assert done.returncode == 2 and tmp in done.stderr and done.stderr.count("\n") == 1
