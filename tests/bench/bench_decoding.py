"""How long the same utterances take as float and at each level of integers. Not a test: it asserts nothing.

usage: python -m tests.bench.bench_decoding [CHECKPOINT TABLE] [--utterances 20] [--rounds 5] [--beam 5] [--json FILE]

Activation grids of level integer-only are calibrated on the table's own first utterances: for speed that is no matter.

One thread, CPU time, the systems in turn within every round, medians: clocks of shared machines drift.
"""

from __future__ import annotations

import argparse
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from asrcompress.ops.load import load_model
from asrcompress.ops.quantize import Calibrate, QuantizeConfig, quantize
from asrcompress.speech.audio import read_audio
from asrcompress.speech.datasets import read_utterances
from tests.bench.rounds import finish, interleave, speed_ratio

SAMPLES = Path(__file__).parents[2] / "samples" / "asr"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("checkpoint", nargs="?", type=Path, default=SAMPLES / "checkpoint_best.pt")
    parser.add_argument("table", nargs="?", type=Path, default=SAMPLES / "test.tsv")
    parser.add_argument("--utterances", type=int, default=20)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    torch.set_num_threads(1)
    with tempfile.TemporaryDirectory() as folder:
        paths = {"float32": args.checkpoint}
        for num_bits in (8, 4):
            for level in ("stored", "computed", "integer-only"):
                path = Path(folder) / f"{num_bits}.{level}.safetensors"
                config = QuantizeConfig(num_bits=num_bits, level=level, calibration_limit=args.utterances)
                quantize(args.checkpoint, path, config, calibrate=Calibrate(args.table) if config.is_static else None)
                paths[f"int{num_bits}, {level}"] = path
        models = {name: load_model(path, fused=True) for name, path in paths.items()}
    source = models["float32"].source
    heard = [
        read_audio(item.audio, sample_rate_hz=16_000)
        for item in read_utterances(args.table).utterances[: args.utterances]
    ]
    audio_s = sum(map(len, heard)) / 16_000
    features = [source.family.features(source.spec, audio) for audio in heard]
    decoders = {
        name: m.source.family.transcriber(m.source.spec, m.module, beam=args.beam) for name, m in models.items()
    }

    def run(decode: Callable[..., Any]) -> Callable[[], None]:
        def decode_all() -> None:
            for frames in features:
                decode([frames])

        return decode_all

    times = interleave({name: run(decode) for name, decode in decoders.items()}, args.rounds)
    rows = []
    for name in times:
        speed = speed_ratio(times, name, "float32")
        cpu_s = times[name].median()["cpu_s"]
        print(f"{name:26} {cpu_s / audio_s:8.4f} CPU s per s of audio, {speed:5.2f} x as fast as float32")
        rows.append(
            {
                "system": name,
                "cpu_s": cpu_s,
                "audio_s": audio_s,
                "num_utterances": len(heard),
                "beam": args.beam,
                "speed_vs_float": speed,
            }
        )
    finish("decoding", rows, args.json)


if __name__ == "__main__":
    main()
