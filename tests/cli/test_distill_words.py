"""What distill says of its own options: their names are not those that fine-tuning has for the same things."""

from __future__ import annotations

from pathlib import Path

import pytest

from asrcompress.cli.main import app
from asrcompress.errors import AsrCompressError

STUDENT = "kws_crnn:channels=2,hidden=12"


@pytest.mark.parametrize(
    ("given", "message"),
    [
        (["--limit", "0"], "--limit 0: use 1 or more, or leave it out"),
        (["--keyword", "computer"], "manifest.tsv: has several splits; add --split, one of: test, val, all"),
    ],
)
def test_an_error_names_the_option_as_distill_has_it(
    given: list[str], message: str, samples_dir: Path, tmp_path: Path
) -> None:
    teacher, clips = samples_dir / "kws/crnn_computer.pt", samples_dir / "kws/manifest.tsv"
    output = tmp_path / "s.safetensors"
    args = ["distill", teacher, "--student", STUDENT, "--data", clips, *given, "-o", output]
    with pytest.raises(AsrCompressError) as error:
        app([str(arg) for arg in args], standalone_mode=False)
    assert message in str(error.value)
    assert not list(tmp_path.iterdir())
