"""What is said of a written file: a training that found nothing better says by what it was judged."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest

from asrcompress.cli.written import tell_written
from asrcompress.ops.write import WrittenArtifact


def record(select: str) -> dict[str, Any]:
    history = [{"update": 0, "metric": 0.10, "loss": 0.96}, {"update": 4, "metric": 0.05, "loss": 1.04}]
    training = {
        "num_updates": 4,
        "best": history[0],
        "history": history,
        "options": {"learning_rate": 5e-3, "select": select},
    }
    sizes = {"size_bytes": 10, "size_ratio": 0.1, "model_size_ratio": 0.1}
    parent = {"file": "teacher.pt", "model_size_bytes": 100, "optimizer_size_bytes": 0}
    return {"metrics": sizes, "parent": parent, "honesty": {}, "training": training, "recipe": {"distilled": {}}}


@pytest.mark.parametrize(
    ("select", "said"),
    [("loss", "had a smaller loss on --dev than the start"), ("metric", "was better than the start")],
)
def test_what_training_was_judged_by_is_said(select: str, said: str, capsys: pytest.CaptureFixture[str]) -> None:
    written = WrittenArtifact(Path("s.safetensors"), Path("s.safetensors.json"), record(select))
    tell_written(written, (), way_out="ask for a smaller student", as_json=False)
    assert f"note: no evaluation {said}, so s.safetensors is the student as it began" in capsys.readouterr().err
