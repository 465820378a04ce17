"""Which student `asrcompress distill` makes: from a TOML file, copied from its teacher, and told of in the sidecar."""

from __future__ import annotations

import json
from pathlib import Path

import jsonschema
import pytest
import torch

from asrcompress.artifact import load_artifact
from asrcompress.ops.load import open_source
from tests.cli.conftest import Run
from tests.conftest import ROOT

TEACHER, CLIPS = ROOT / "samples" / "kws" / "crnn_computer.pt", ROOT / "samples" / "kws" / "manifest.tsv"
SCHEMA = json.loads((ROOT / "docs" / "sidecar.schema.json").read_text())
FEW = [
    "--data",
    CLIPS,
    "--split",
    "dev",
    "--dev",
    CLIPS,
    "--dev-split",
    "test",
    "--keyword",
    "computer",
    "--limit",
    8,
    "--epochs",
    1,
]


def test_a_file_names_a_student_that_starts_as_its_teacher(run: Run) -> None:
    Path("one.toml").write_text('[student]\nfamily = "kws_crnn"\nlayers = 1\n')
    # A learning rate so small that what was copied is still there to be seen.
    done = run("distill", TEACHER, "--student", "one.toml", *FEW, "--learning-rate", 1e-9, "-o", "s.safetensors")
    assert done.returncode == 0, done.stderr
    record = json.loads(Path("s.safetensors.json").read_text())
    jsonschema.validate(record, SCHEMA)
    student, teacher = record["training"]["student"], open_source(TEACHER)
    sizes = teacher.spec.config
    assert student["sizes"] == {
        "channels": sizes["num_channels"], "hidden": sizes["hidden_size"], "layers": 1,
        "kernel": list(sizes["kernel_size"]), "stride": list(sizes["stride"]),
    }  # fmt: skip
    assert student["layers"] == {"gru": [0]} and student["shrink"] is None
    assert student["num_copied_params"] == student["num_params"] == record["metrics"]["num_params"]
    assert student["num_teacher_params"] == sum(tensor.numel() for tensor in teacher.tensors.values())
    stored = load_artifact("s.safetensors").floats
    assert set(student["copied"]) == set(stored) == {name for name in teacher.tensors if not name.endswith("_l1")}
    for name, tensor in stored.items():  # biases are stored as float16
        torch.testing.assert_close(tensor.float(), teacher.tensors[name], rtol=2**-11, atol=1e-6)


@pytest.mark.parametrize(
    ("student", "message"),
    [
        ("kws_crnn:chanels=2", "a kws_crnn has no size 'chanels'; it has channels, hidden, layers, kernel, stride"),
        ("kws_crnn:kernel=50x20", "use a smaller kernel"),
        ("s2t_transformer:dim=32", "is a kws_crnn, and so is its student"),
        ("small.toml", "small.toml: the student could not be read: No such file or directory"),
    ],
)
def test_a_student_that_cannot_be_is_found_before_anything_is_trained(run: Run, student: str, message: str) -> None:
    done = run("distill", TEACHER, "--student", student, *FEW, "-o", "s.safetensors")
    assert done.returncode == 2 and done.stdout == ""
    assert message in done.stderr and done.stderr.count("\n") == 1
    assert list(Path().iterdir()) == []
