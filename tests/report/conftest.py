"""A report over the example sidecars: a float baseline, an int8 file that keeps to the gates, an int4 one that does not."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import pytest

from asrcompress.gate import parse
from asrcompress.report.rows import Report, build_report
from asrcompress.sidecar import Sidecar, read

EXAMPLES = Path(__file__).parents[1] / "examples"
REQUIREMENTS = ("ratio.model_size_bytes<=0.27", "relative.wer<=0.01 or excess.wer<=0", "ratio.macs<=1")


@pytest.fixture
def example():
    return lambda name: read(EXAMPLES / name)


@pytest.fixture
def digits() -> Report:
    names = sorted(path for path in EXAMPLES.glob("checkpoint_best.int*.json"))
    baseline = sorted(path for path in EXAMPLES.glob("checkpoint_best.pt*.json"))
    return build_report([read(n) for n in names], [read(b) for b in baseline], [parse(r) for r in REQUIREMENTS])


@pytest.fixture
def keywords() -> Report:
    names = ("crnn_happy.int8.safetensors.eval.json", "crnn_happy.pt.eval.json")
    return build_report([read(EXAMPLES / names[0])], [read(EXAMPLES / names[1])])


@pytest.fixture
def named():
    """A report whose models have the file names given, sizes falling."""

    def build(*files: str, **options: object) -> Report:
        sidecars = []
        for number, file in enumerate(files):
            record = copy.deepcopy(json.loads((EXAMPLES / "checkpoint_best.int8.safetensors.eval.json").read_text()))
            size = 9_000_000 // (number + 1)
            record["model"] |= {"file": file, "sha256": f"{number:064x}", "size_bytes": size, "model_size_bytes": size}
            record["metrics"] |= {"size_bytes": size, "model_size_bytes": size, "wer": 0.03 + 0.002 * number}
            sidecars.append(Sidecar(Path(f"{number}.eval.json"), record))
        return build_report(sidecars, **options)

    return build
