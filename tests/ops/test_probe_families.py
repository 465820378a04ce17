"""Every family under a probe: what kept prefixes give against models that are changed, built anew and run in full."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch

from asrcompress.metrics.error_rate import score
from asrcompress.metrics.normalizers import get_normalizer
from asrcompress.models import FAMILIES
from asrcompress.ops.load import build_model, open_source
from asrcompress.ops.probe import read_probe_data
from asrcompress.ops.units import Option
from tests.models.test_family_contract import TINY
from tests.ops.test_probe import candidate_of, in_full, make_probe

LETTERS = ("TEA", "TO EAT", "EAT", "TATTOO")


@pytest.fixture
def table(request: pytest.FixtureRequest, tiny_speech: Path, tmp_path: Path) -> Path:
    """Four recordings, two of one length, with references that the family's vocabulary has."""
    texts = LETTERS if "ctc" in request.getfixturevalue("family_name") else ("go left", "stop", "right go", "lefts")
    audio = [tiny_speech.parent / f"{number}.flac" for number in (3, 1, 2)] + [tmp_path / "again.flac"]
    audio[3].write_bytes(audio[1].read_bytes())
    (tmp_path / "t.tsv").write_text("".join(f"{file}\t{text}\n" for file, text in zip(audio, texts, strict=True)))
    return tmp_path / "t.tsv"


@pytest.mark.parametrize("family_name", sorted(set(FAMILIES) - {"kws_crnn"}))
def test_trials_are_full_runs(family_name: str, table: Path, request: pytest.FixtureRequest) -> None:
    source = open_source(request.getfixturevalue(TINY[family_name]))
    probe = make_probe(source, read_probe_data(source, table), batch_size=2)
    weights = [name for name, unit in probe.units.items() if unit.target == "weight"]
    assert probe._rig.cache.size_bytes > 0
    for name in (weights[0], weights[len(weights) // 3], weights[2 * len(weights) // 3], weights[-1]):
        changes, is_middle = {name: Option(2)}, name == weights[len(weights) // 3]
        found = probe.measure(changes, decode=is_middle)
        loss, _ = in_full(source, probe.data, changes, probe._batches)
        assert found.loss == loss
        assert not is_middle or found.num_errors == errors_in_full(probe, name)
    softmax = next(name for name in probe.units if name.endswith(":softmax"))
    assert probe.measure({softmax: Option(2)}, decode=False).kl > probe.measure({softmax: Option(8)}, decode=False).kl
    assert probe.measure({}, decode=False).loss == probe.baseline.loss


def errors_in_full(probe, name: str) -> int:
    source, data = probe.source, probe.data
    module = build_model(source).module
    with torch.no_grad():
        module.get_parameter(name).copy_(candidate_of(source)(probe.units[name], Option(2)).dequantize())
    transcribe = source.family.transcriber(source.spec, module, beam=1)
    texts: dict[int, str] = {}
    for batch in probe._batches:
        texts |= dict(zip(batch, transcribe([data.features[position] for position in batch]), strict=True))
    rates = score(data.references, [texts[position] for position in sorted(texts)], normalizer=get_normalizer("basic"))
    return rates.substitutions + rates.insertions + rates.deletions
