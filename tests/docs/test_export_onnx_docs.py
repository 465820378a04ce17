"""The Python in docs/export-onnx.md runs without asrcompress, and says what the artifact says."""

from __future__ import annotations

import ast
import subprocess
import sys
from pathlib import Path

import numpy as np
import torch

from asrcompress.models import s2t
from asrcompress.models.crnn_stream import AtOnce
from asrcompress.ops.export import export
from asrcompress.ops.load import load_model
from asrcompress.ops.quantize import QuantizeConfig, quantize
from asrcompress.speech.audio import read_audio
from tests.docs.test_code_blocks import blocks

BLOCKED = "import sys\nfor name in ('asrcompress', 'torch', 'onnx'): sys.modules[name] = None\n"


def run(code: str, folder: Path) -> str:
    result = subprocess.run([sys.executable, "-c", BLOCKED + code], cwd=folder, capture_output=True, text=True)
    assert result.returncode == 0, result.stderr
    return result.stdout


def test_greedy_decoding_gives_the_texts_of_the_artifact(samples_dir: Path, tmp_path: Path) -> None:
    (code,) = blocks("export-onnx.md", "greedy")
    artifact = tmp_path / "asr.int8.safetensors"
    quantize(samples_dir / "asr" / "checkpoint_best.pt", artifact, QuantizeConfig(num_bits=8, activations="int8"))
    export(artifact, "onnx", output=tmp_path / "asr-onnx")
    model = load_model(artifact)
    spec = model.source.spec
    files = sorted((samples_dir / "asr" / "audio").glob("test_*.flac"))[:3]
    batch = [s2t.features(spec, read_audio(file, sample_rate_hz=16_000)) for file in files]
    source, lengths = s2t.pad(batch, model.module)
    np.save(tmp_path / "features.npy", source.numpy())
    np.save(tmp_path / "lengths.npy", lengths.numpy())
    expected = s2t.transcriber(spec, model.module, beam=1)(batch)
    assert ast.literal_eval(run(code, tmp_path)) == expected and all(expected)


def test_the_stream_gives_the_steps_of_the_artifact(samples_dir: Path, tmp_path: Path) -> None:
    (code,) = blocks("export-onnx.md", "stream")
    artifact = tmp_path / "computer.safetensors"
    quantize(samples_dir / "kws" / "crnn_computer.pt", artifact, QuantizeConfig(num_bits=8, activations="int8"))
    export(artifact, "onnx", output=tmp_path / "computer-onnx")
    frames = torch.randn(40, 20 + 8 * 15, generator=torch.Generator().manual_seed(0)) * 3 - 5
    np.save(tmp_path / "log_mel.npy", frames.numpy())
    run(code + "\nnp.save('logits.npy', np.stack(steps))\n", tmp_path)
    with torch.inference_mode():
        expected = load_model(artifact).module(frames[None], AtOnce(11)).numpy()
    np.testing.assert_allclose(np.load(tmp_path / "logits.npy"), expected, atol=1e-4)
