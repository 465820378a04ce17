"""A table of every family: activations found, estimates that are numbers, utterances without a loss counted and told of."""

from __future__ import annotations

import json
import math
from dataclasses import replace
from pathlib import Path

import jsonschema
import pytest

from asrcompress.errors import AsrCompressError
from asrcompress.models import fairseq_adapter
from asrcompress.ops.load import build_model, open_source
from asrcompress.ops.sensitivity import run
from asrcompress.ops.sensitivity_config import SensitivityConfig
from asrcompress.ops.sensitivity_files import SensitivityData
from asrcompress.ops.sensitivity_plan import Target
from tests.conftest import ROOT

KINDS = {"softmax", "layer norm", "attention products"}


@pytest.fixture(autouse=True)
def brief(monkeypatch: pytest.MonkeyPatch) -> None:
    """Random weights never say that a sentence ends: four words will do."""

    def beam_search(*arguments: object, search=fairseq_adapter.beam_search, **options: object):
        return search(*arguments, **options | {"max_len_a": 0.0, "max_len_b": 4})

    monkeypatch.setattr(fairseq_adapter, "beam_search", beam_search)


def spoken(folder: Path, speech: Path, references: list[str]) -> Path:
    """The recordings of another table with references of one's own."""
    lines = speech.read_text().splitlines()
    rows = [line.split("\t") for line in lines[1 : 1 + len(references)]]
    for row, text in zip(rows, references, strict=True):
        row[1], row[3] = str(speech.parent / row[1]), text
    (folder / "said.tsv").write_text("\n".join([lines[0], *("\t".join(row) for row in rows)]) + "\n")
    return folder / "said.tsv"


@pytest.mark.parametrize(
    "fixture", ["tiny_s2t_conformer", "tiny_vgg", "tiny_vgg_encoder", "tiny_wav2vec_ctc", "tiny_hubert_ctc"]
)
def test_every_family_has_a_table(fixture: str, request: pytest.FixtureRequest, tiny_speech: Path, tmp_path: Path):
    model = request.getfixturevalue(fixture)
    is_letters = fixture.endswith("_ctc")
    said = (
        ["eat to", "a", "toe tea oat " * 20, "", "oat"] if is_letters else ["go left", "stop", "", "right go", "lefts"]
    )
    data = SensitivityData(spoken(tmp_path, tiny_speech, said))
    config = SensitivityConfig(bits=(8, 2), patterns=(), top=1, sample=2)
    result = run(model, data, config, target=Target(size_ratio=0.3), output=tmp_path / "t.json")
    assert result is not None
    record = result.record
    schema = json.loads((ROOT / "docs" / "sidecar.schema.json").read_text())
    jsonschema.Draft202012Validator(schema).validate(record)
    assert {u["kind"] for u in record["units"] if u["target"] == "activations"} == KINDS
    cells = [cell for unit in record["units"] for cell in unit["options"]]
    assert all(math.isfinite(cell[key]) for cell in cells for key in ("fisher", "kl_proxy", "cost"))
    estimated = [u["options"][-1] for u in record["units"]]
    module = build_model(open_source(model)).module
    reached = sum(cell["kl_proxy"] > 0 for cell in estimated)
    assert reached >= len(estimated) - sum("ctc" in name for name, _ in module.named_parameters())
    assert sum(cell["loss_change"] is not None for cell in cells) == 2 * 2 + 2
    assert record["data"]["num_left_out"] == (1 if is_letters else 0)
    said_so = [line for line in record["warnings"] if line.startswith("1 of 5 utterances have no part in the loss")]
    assert len(said_so) == (1 if is_letters else 0)
    assert result.facts is not None and result.facts.size_bytes <= result.facts.budget_bytes


def test_references_that_no_frames_hold_are_no_loss(tiny_wav2vec_ctc: Path, tiny_speech: Path, tmp_path: Path):
    data = SensitivityData(spoken(tmp_path, tiny_speech, ["eat tea toe oat " * 20] * 3))
    before = sorted(tmp_path.iterdir())
    config = SensitivityConfig(bits=(8,), patterns=(), top=0, sample=0)
    for options in (config, replace(config, activations=False)):
        with pytest.raises(
            AsrCompressError, match="said.tsv: each reference is too long for the frames that checkpoint_b"
        ):
            run(tiny_wav2vec_ctc, data, options, output=tmp_path / "t.json")
    assert sorted(tmp_path.iterdir()) == before
