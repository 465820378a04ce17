"""The C source of keyword artifacts on real clips: equal bit for bit, offline and as one stream; how fast, beside torch.

    python -m tests.bench.bench_c_export ARTIFACT ... --data MANIFEST [--clips 1000] [--json FILE]

Where arm-none-eabi-gcc and qemu-arm are installed: flash on two Cortex-M, equal steps and instructions a step on one (c_on_arm.py).
One thread, processor time, the two in turn; a row an artifact. What is timed is frames in, logits out: no front-end.
Exits with 1 where any logit differs.
"""

from __future__ import annotations

import argparse
import json
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import torch

from asrcompress.exporters import Subject
from asrcompress.exporters.c_measure import Library, logit_codes
from asrcompress.exporters.c_network import Network, read_network
from asrcompress.integers.crossing import enter_integers
from asrcompress.models import kws_crnn
from asrcompress.models.crnn_stream import Memory
from asrcompress.models.kws_stream import window_steps
from asrcompress.ops.export import export
from asrcompress.ops.load import load_model
from asrcompress.speech.audio import read_audio
from asrcompress.speech.keyword_datasets import read_clip_files
from tests.bench import c_on_arm

BATCH = 50
ROUNDS = 5
STREAM_CLIPS = 20  # of the timing
ARM_CLIPS = 100  # that qemu runs, and one of them instruction by instruction


def main() -> None:
    """Print one table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifacts", type=Path, nargs="+")
    parser.add_argument("--data", type=Path, required=True)
    parser.add_argument("--split", default="test")
    parser.add_argument("--clips", type=int, default=1000)
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    torch.set_num_threads(1)
    files = read_clip_files(options.data, split=options.split, option="--split")[0]
    chosen = [files[index * len(files) // options.clips] for index in range(min(options.clips, len(files)))]
    audio = [read_audio(file, sample_rate_hz=kws_crnn.SAMPLE_RATE_HZ) for file in chosen]
    rows = [run(artifact, audio) for artifact in options.artifacts]
    print("| artifact | bytes | flash | RAM | clips equal | steps equal | C us/step | torch us/step | ratio | MMAC/s |")
    print("|---|---|---|---|---|---|---|---|---|---|")
    for row in rows:
        print(
            f"| {row['artifact']} | {row['size_bytes']:,} | {row['flash_bytes']:,} | {row['ram_bytes']:,} | "
            f"{row['equal_clips']} / {row['clips']} | {row['equal_steps']} / {row['steps']} | {row['c_us']:.1f} | "
            f"{row['torch_us']:.0f} | {row['torch_us'] / row['c_us']:.0f} | {row['macs_per_step'] / row['c_us']:.0f} |"
        )
    if c_on_arm.has_arm():
        print_arm(rows)
    if options.json:
        options.json.write_text(json.dumps(rows, indent=1) + "\n")
    sys.exit(
        any(row["equal_clips"] < row["clips"] for row in rows)
        or any(row["equal_steps"] < row["steps"] for row in [*rows, *(row["arm"] for row in rows if row["arm"])])
    )


def run(artifact: Path, audio: list[np.ndarray]) -> dict[str, Any]:
    """One artifact on all clips."""
    model = load_model(artifact)
    source = model.source
    subject = Subject(
        artifact, source.sha256, source.size_bytes, source.family, source.spec, source.content, model.module
    )
    network = read_network(subject, window_steps(source.spec, 1.0))
    with tempfile.TemporaryDirectory() as folder:
        written = export(artifact, "c", output=Path(folder, "kws-c"))
        warnings = ["-std=c99", "-O2", "-Wall", "-Wextra", "-Werror", "-pedantic"]
        subprocess.run(["gcc", *warnings, "-shared", "-fPIC", "kws.c", "-o", "kws.so"], cwd=written.folder, check=True)
        library = Library(written.folder / "kws.so", "kws", network)
        metrics = written.record["metrics"]
        arm = c_on_arm.sizes(written.folder, "kws") if c_on_arm.has_arm() else {}
        program = c_on_arm.build(written.folder, "kws").read_bytes() if arm else b""
    features = [kws_crnn.features(source.spec, clip) for clip in audio]
    codes = [codes_of(frames, network) for frames in features]
    with torch.inference_mode():
        batches = [torch.stack(features[start : start + BATCH]) for start in range(0, len(features), BATCH)]
        wanted = [row for batch in batches for row in logit_codes(model.module(batch), network)]
        stream = torch.cat(features, dim=1).unsqueeze(0)
        wanted_steps = logit_codes(model.module(stream, Memory(network.window_steps)), network)
    found_steps = library.stream(codes_of(stream[0], network))
    found = [library.classify(clip) for clip in codes]
    c_us, torch_us, num_steps = times(library, model.module, stream[:, :, : STREAM_CLIPS * 101], network)
    return {
        "artifact": artifact.name,
        "size_bytes": artifact.stat().st_size,
        "flash_bytes": metrics["c_flash_bytes"],
        "ram_bytes": metrics["c_ram_bytes"],
        "clips": len(wanted),
        "equal_clips": sum(a == b for a, b in zip(found, wanted, strict=True)),
        "steps": len(wanted_steps),
        "equal_steps": sum(a == b for a, b in zip(found_steps, wanted_steps, strict=True)),
        "timed_steps": num_steps,
        "c_us": c_us,
        "torch_us": torch_us,
        "macs_per_step": macs_per_step(network),
        "arm": on_arm(program, arm, codes, wanted_steps, (network.sizes["kernel_size"][1], network.sizes["stride"][1]))
        if arm
        else None,
    }


def on_arm(
    program: bytes, sizes: dict[str, int], clips: list[np.ndarray], wanted: list[list[int]], frames: tuple[int, int]
) -> dict[str, Any]:
    """What qemu says of the first clips as one stream; `frames` to the first step, and from step to step."""
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder, "kws")
        path.write_bytes(program)
        path.chmod(0o755)
        found = c_on_arm.logits(path, np.concatenate(clips[:ARM_CLIPS]))
        instructions = c_on_arm.instructions_per_step(path, clips[0], *frames)
    equal = sum(a == b for a, b in zip(found, wanted, strict=False))
    return {
        "flash_bytes": sizes,
        "steps": len(found),
        "equal_steps": equal,
        "instructions_per_step": round(instructions),
    }


def print_arm(rows: list[dict[str, Any]]) -> None:
    """A table of what qemu said."""
    print(
        f"\n| artifact | {' | '.join(f'flash {core}' for core in c_on_arm.CORES)} | steps equal | instructions a step |"
    )
    print("|---|---|---|---|---|")
    for row in rows:
        arm = row["arm"]
        flash = " | ".join(f"{arm['flash_bytes'][core]:,}" for core in c_on_arm.CORES)
        print(
            f"| {row['artifact']} | {flash} | {arm['equal_steps']} / {arm['steps']} | {arm['instructions_per_step']:,} |"
        )


def codes_of(frames: torch.Tensor, network: Network) -> np.ndarray:
    """log-mel (mels, frames) -> codes (frames, mels)."""
    grid = network.input
    return np.ascontiguousarray(enter_integers(frames, grid.scale, grid.zero_point, grid.num_bits).t().numpy())


def times(
    library: Library, module: torch.nn.Module, stream: torch.Tensor, network: Network
) -> tuple[float, float, int]:
    """(microseconds a step of C, of torch, steps): frame by frame and step by step, as both would run on a microphone."""
    stride, kernel = network.sizes["stride"][1], network.sizes["kernel_size"][1]
    codes = codes_of(stream[0], network)
    num_steps = (stream.shape[2] - kernel) // stride + 1

    def torch_steps() -> None:
        memory = Memory(network.window_steps)
        with torch.inference_mode():
            for start in range(0, stream.shape[2], stride):
                module(stream[:, :, start : start + stride], memory)

    # ctypes costs more than a frame does: as much as calls that do nothing but keep a frame is taken off.
    waiting = np.tile(codes[: kernel - 1], (len(codes) // (kernel - 1) + 1, 1))[: len(codes)]

    def nothing() -> None:
        for start in range(0, len(waiting), kernel - 1):
            library.stream(waiting[start : start + kernel - 1])

    rounds = [
        [_time(function) for function in (lambda: library.stream(codes), nothing, torch_steps)] for _ in range(ROUNDS)
    ]
    whole, calls, of_torch = (statistics.median(column) for column in zip(*rounds, strict=True))
    return (whole - calls) / num_steps * 1e6, of_torch / num_steps * 1e6, num_steps


def _time(function: Callable[[], Any]) -> float:
    start = time.process_time()
    function()
    return time.process_time() - start


def macs_per_step(network: Network) -> int:
    """Multiply-accumulates of weights, and of the attention over a full window."""
    of_weights = sum(product.rows * product.groups * product.group_size for product in network.products)
    convolution = network.convolution
    again = (network.num_bands - 1) * convolution.rows * convolution.group_size * convolution.groups
    return of_weights + again + network.window_steps * int(network.sizes["hidden_size"])


if __name__ == "__main__":
    main()
