"""What gcc says of an exported C source: bytes of flash and stack, and that it computes what the model does.

Everything is compiled in a folder of its own that goes away. Without gcc nothing is measured.
"""

from __future__ import annotations

import ctypes
import re
import shutil
import subprocess
import tempfile
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor, nn

from asrcompress.exporters.c_network import Network
from asrcompress.models.crnn_stream import Memory

WARNINGS = ("-std=c99", "-Wall", "-Wextra", "-Werror", "-pedantic")
FOR_SIZE = ("-Os", "-fno-pic", "-ffunction-sections")
SECONDS = 120  # for gcc


@dataclass(frozen=True)
class Compiled:
    """compiler: its first line. target: the machine that the sizes are of. flash_bytes: code and constants.
    stack_bytes: of the deepest chain of calls, without the caller's and the compiler's own helpers'."""

    compiler: str
    target: str
    flash_bytes: int
    stack_bytes: int


def has_gcc() -> bool:
    """Whether gcc and binutils' size can be run."""
    return bool(shutil.which("gcc") and shutil.which("size"))


def measure(source: str, header: str, name: str) -> Compiled:
    """Compile for size, with warnings as errors.

    Raises:
        subprocess.SubprocessError: gcc failed.
    """
    with _folder(source, header, name) as folder:
        _run(folder, "gcc", *WARNINGS, *FOR_SIZE, "-fcallgraph-info=su", "-c", f"{name}.c")
        flash = _run(folder, "size", f"{name}.o").splitlines()[1].split()
        graph = Path(folder, f"{name}.ci").read_text()
        compiler, target = (_run(folder, "gcc", option).splitlines()[0] for option in ("--version", "-dumpmachine"))
    return Compiled(compiler, target, int(flash[0]) + int(flash[1]), deepest_stack(graph))


def deepest_stack(graph: str) -> int:
    """Bytes of the deepest chain of calls in what gcc's -fcallgraph-info=su writes."""
    own = {
        name: int(size)
        for name, size in re.findall(r'node: \{ title: "([^"]*)" label: "[^"]*?(\d+) bytes \(static\)', graph)
    }
    calls = re.findall(r'edge: \{ sourcename: "([^"]*)" targetname: "([^"]*)"', graph)

    def below(name: str) -> int:
        return own.get(name, 0) + max((below(called) for caller, called in calls if caller == name), default=0)

    return max(map(below, own), default=0)


def count_different_steps(source: str, header: str, name: str, network: Network, module: nn.Module) -> tuple[int, int]:
    """(steps whose logits differ in any bit, steps) of a stream of made-up frames, and of each of its seconds as a clip.

    Raises:
        subprocess.SubprocessError: gcc failed.
    """
    grid, mels = network.input, network.sizes["num_mels"]
    clip_frames = network.sizes["kernel_size"][1] + (network.window_steps - 1) * network.sizes["stride"][1]
    generator = torch.Generator().manual_seed(1)
    steps = torch.randint(grid.code_min // 8, grid.code_max // 8 + 1, (4 * clip_frames, mels), generator=generator)
    frames = steps.cumsum(0).clamp(grid.code_min, grid.code_max)  # they wander over all of the grid
    numbers = ((frames - grid.zero_point) * grid.scale).float().t().unsqueeze(0)
    clips = numbers.reshape(mels, 4, clip_frames).transpose(0, 1)
    with torch.inference_mode():
        wanted = [module(numbers, Memory(network.window_steps)), module(clips)]
    with _folder(source, header, name) as folder:
        _run(folder, "gcc", *WARNINGS, "-O2", "-shared", "-fPIC", f"{name}.c", "-o", f"{name}.so")
        compiled = Library(Path(folder, f"{name}.so"), name, network)
        found = [
            compiled.stream(frames.numpy()),
            [compiled.classify(clip) for clip in frames.numpy().reshape(4, -1, mels)],
        ]
    pairs = list(zip(logit_codes(torch.cat(wanted), network), found[0] + found[1], strict=True))
    return sum(want != have for want, have in pairs), len(pairs)


def logit_codes(logits: Tensor, network: Network) -> list[list[int]]:
    """Logits (steps, classes) as the codes that they stand for."""
    codes: list[list[int]] = (
        ((logits.double() / network.logits.scale).round() + network.logits.zero_point).long().tolist()
    )
    return codes


class Library:
    """A compiled source, called from Python."""

    def __init__(self, path: Path, name: str, network: Network) -> None:
        library = ctypes.CDLL(str(path))
        self._start, self._forget, self._feed, self._classify = (
            library[f"{name}_{part}"] for part in ("start", "forget", "feed", "classify")
        )
        self.probability = library[f"{name}_probability"]
        self.probability.restype = ctypes.c_uint16
        self._dtype = np.int8 if network.input.num_bits <= 8 else np.int16
        self._logits = (ctypes.c_int16 * 2)()
        self._state = ctypes.create_string_buffer(1 << 20)

    def stream(self, frames: np.ndarray) -> list[list[int]]:
        """A new stream: codes (frames, mels) one by one -> the logits of each step."""
        self._start(self._state)
        return self.feed(frames)

    def forget(self) -> None:
        """Forget what was heard."""
        self._forget(self._state)

    def feed(self, frames: np.ndarray) -> list[list[int]]:
        """More of the stream."""
        codes = np.ascontiguousarray(frames, dtype=self._dtype)
        return [
            list(self._logits)
            for frame in codes
            if self._feed(self._state, frame.ctypes.data_as(ctypes.c_void_p), self._logits)
        ]

    def classify(self, frames: np.ndarray) -> list[int]:
        """A clip's codes (frames, mels) -> logits; none where the source refuses it."""
        codes = np.ascontiguousarray(frames, dtype=self._dtype)
        done = self._classify(self._state, codes.ctypes.data_as(ctypes.c_void_p), len(codes), self._logits)
        return list(self._logits) if done else []


class _folder(tempfile.TemporaryDirectory[str]):
    """A folder with the two files in it."""

    def __init__(self, source: str, header: str, name: str) -> None:
        super().__init__(prefix="asrcompress-c-")
        Path(self.name, f"{name}.c").write_text(source)
        Path(self.name, f"{name}.h").write_text(header)


def _run(folder: str, *command: str) -> str:
    done = subprocess.run(  # noqa: S603 (fixed programs, our own files)
        command, cwd=folder, capture_output=True, text=True, check=True, timeout=SECONDS
    )
    return done.stdout
