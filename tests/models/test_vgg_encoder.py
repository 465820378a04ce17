"""asr_vggtransformer_encoder: which unit is the blank, CTC decoding, and a model that was trained to hear."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch

from asrcompress.models import vgg_encoder
from asrcompress.ops.eval_config import EvalConfig
from asrcompress.ops.evaluate import evaluate
from asrcompress.ops.load import open_source
from asrcompress.ops.quantize import Calibrate, quantize
from asrcompress.ops.recipe import QuantizeConfig
from tests.fixtures.fairseq_files import PIECES
from tests.fixtures.vgg import make_vgg


class Fixed(torch.nn.Module):
    """Gives these units, whatever it hears."""

    def __init__(self, units: list[list[int]], num_units: int) -> None:
        super().__init__()
        self.encoder = SimpleNamespace(conv_layers=())
        self.register_buffer("scores", 20.0 * torch.nn.functional.one_hot(torch.tensor(units), num_units).float())

    def forward(self, source: torch.Tensor, lengths: torch.Tensor) -> dict[str, torch.Tensor]:
        frames = torch.arange(self.scores.shape[1])
        padding = frames[:, None] >= (lengths[None] + 3) // 4
        return {"encoder_out": self.scores.transpose(0, 1), "encoder_padding_mask": padding}


def test_the_blank_is_the_symbol_after_the_dictionary(tiny_vgg_encoder: Path) -> None:
    spec = open_source(tiny_vgg_encoder).spec
    assert spec.vocabulary == [*PIECES, "<ctc_blank>"] and spec.config["blank"] == 10


def test_the_blank_is_the_first_unit_where_the_dictionary_gives_all(tmp_path: Path) -> None:
    spec = open_source(make_vgg(tmp_path, "vggtransformer_enc_1", PIECES, criterion="ctc")).spec
    assert spec.vocabulary == PIECES and spec.config["blank"] == 0


@pytest.mark.parametrize("beam", [1, 4])
@pytest.mark.parametrize("blank", [0, 10])
def test_repeats_are_merged_and_padding_is_not_heard(tiny_vgg_encoder: Path, blank: int, beam: int) -> None:
    spec = open_source(tiny_vgg_encoder).spec
    spec = dataclasses.replace(spec, config=spec.config | {"blank": blank})
    first = [4, 4, blank, 4, 6, 7, 7, blank]  # go go left
    second = [blank, 5, 5, 9, 8, 8, 8, 8]  # stops, then what lies in the padding
    transcribe = vgg_encoder.transcriber(spec, Fixed([first, second], 11), beam=beam)
    assert transcribe([torch.zeros(32, 80), torch.zeros(15, 80)]) == ["go go left", "stops"]


def test_a_trained_model_is_understood(trained_vgg_encoder: Path, tone_speech: Path, tmp_path: Path) -> None:
    """Training knew nothing of asrcompress's decoding, so a low error rate shows that it is right."""
    for beam in (1, 5):
        config = EvalConfig(data=tone_speech, beam=beam, batch_size=4)
        _, record = evaluate(trained_vgg_encoder, config, output=tmp_path / f"{beam}.json")
        assert record["metrics"]["num_scored"] == 40
        assert record["metrics"]["wer"] <= 0.03


@pytest.mark.parametrize("level", ["stored", "computed", "integer-only"])
def test_a_trained_model_is_understood_on_integers(
    trained_vgg_encoder: Path, tone_speech: Path, tmp_path: Path, level: str
) -> None:
    packed = tmp_path / "q.safetensors"
    calibrate = Calibrate(tone_speech) if level == "integer-only" else None
    quantize(
        trained_vgg_encoder, packed, QuantizeConfig(num_bits=4, level=level, calibration_limit=8), calibrate=calibrate
    )
    _, record = evaluate(packed, EvalConfig(data=tone_speech, beam=1))
    assert record["metrics"]["wer"] <= 0.03
