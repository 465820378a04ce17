"""The C source compiled for a Cortex-M and run by qemu: bytes of flash and stack there, equal logits, instructions a step.

Needs arm-none-eabi-gcc and qemu-arm (Debian: gcc-arm-none-eabi, qemu-user); no C library. What qemu counts are instructions,
not cycles: memory and pipeline are a microcontroller's own.
"""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

import numpy as np

CORES = ("cortex-m0plus", "cortex-m4")
FLAGS = ("-mthumb", "-std=c99", "-Os", "-Wall", "-Wextra", "-Werror", "-pedantic", "-ffreestanding")
# Frames come by Linux's read, logits go by write: what qemu's user mode gives a program without a C library.
MAIN = """#include "NAME.h"
static int32_t call(int32_t number, int32_t a, void *b, int32_t c)
{
    register int32_t r7 __asm__("r7") = number, r0 __asm__("r0") = a, r2 __asm__("r2") = c;
    register void *r1 __asm__("r1") = b;
    __asm__ volatile("svc 0" : "+r"(r0) : "r"(r7), "r"(r1), "r"(r2) : "memory");
    return r0;
}
void *memset(void *to, int value, unsigned count)
{
    volatile uint8_t *bytes = to;
    while (count--)
        bytes[count] = (uint8_t)value;
    return to;
}
void _start(void)
{
    static NAME_state state;
    static NAME_input frame[UPPER_NUM_MELS];
    static int16_t logits[2];
    NAME_start(&state);
    while (call(3, 0, frame, sizeof frame) == sizeof frame)
        if (NAME_feed(&state, frame, logits))
            call(4, 1, logits, sizeof logits);
    call(1, 0, 0, 0);
}
"""


def has_arm() -> bool:
    """Whether compiler and emulator are there."""
    return bool(shutil.which("arm-none-eabi-gcc") and shutil.which("qemu-arm"))


def sizes(folder: Path, name: str) -> dict[str, int]:
    """Core -> bytes of code and constants, the compiler's own helpers not counted."""
    found = {}
    for core in CORES:
        target = folder / f"{core}.o"
        _run("arm-none-eabi-gcc", f"-mcpu={core}", *FLAGS, "-c", str(folder / f"{name}.c"), "-o", str(target))
        text, data = _run("arm-none-eabi-size", str(target)).splitlines()[1].split()[:2]
        found[core] = int(text) + int(data)
    return found


def build(folder: Path, name: str, core: str = "cortex-m4") -> Path:
    """A program that hears frames on stdin and says logits on stdout."""
    (folder / "main.c").write_text(MAIN.replace("NAME", name).replace("UPPER", name.upper()))
    program = folder / f"{name}.{core}"
    own = [flag for flag in FLAGS if flag != "-pedantic"]
    _run(
        "arm-none-eabi-gcc", f"-mcpu={core}", *own, "-std=gnu99", "-nostdlib", "-nostartfiles",
        str(folder / "main.c"), str(folder / f"{name}.c"), "-lgcc", "-o", str(program),
    )  # fmt: skip
    return program


def logits(program: Path, codes: np.ndarray) -> list[list[int]]:
    """Codes (frames, mels) as one stream -> the logits of each step."""
    done = subprocess.run(["qemu-arm", program], input=codes.tobytes(), capture_output=True, check=True)
    found: list[list[int]] = np.frombuffer(done.stdout, dtype="<i2").reshape(-1, 2).tolist()
    return found


def instructions_per_step(program: Path, codes: np.ndarray, kernel_frames: int, step_frames: int) -> float:
    """Instructions that qemu runs from step to step, of the first ones; reading frames and writing logits are in it."""

    def count(num_frames: int) -> int:
        command = ["qemu-arm", "-singlestep", "-d", "exec,nochain", str(program)]
        done = subprocess.run(command, input=codes[:num_frames].tobytes(), capture_output=True, check=True)
        return done.stderr.count(b"\n")

    return (count(kernel_frames + 2 * step_frames) - count(kernel_frames)) / 2


def _run(*command: str) -> str:
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout
