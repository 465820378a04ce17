"""The library of C kernels: compiled with the machine's C compiler at first use, kept in the user's cache, loaded with ctypes.

Nothing but this package's own source is compiled. A library is taken from the cache only if the folder and it belong to
this user and nobody else can write there.
"""

from __future__ import annotations

import atexit
import ctypes
import hashlib
import os
import shutil
import subprocess
import tempfile
from functools import cache
from pathlib import Path

from asrcompress.errors import AsrCompressError

SOURCE = Path(__file__).parent / "c"
FLAGS = ("-O2", "-march=native", "-std=gnu11", "-ffp-contract=off", "-fno-math-errno", "-fopenmp", "-fPIC", "-shared")
NEEDED = {"avx512f", "avx512bw", "avx512dq", "avx512vl", "avx512_vnni"}
PATIENCE_S = 300
SWITCH = "ASRCOMPRESS_KERNELS"  # "off" computes with torch


def announce(text: str) -> None:
    """Says what takes a while; the command line puts its own here."""


@cache
def _load() -> tuple[ctypes.CDLL | None, str]:
    switch = os.environ.get(SWITCH, "on")
    if switch not in ("on", "off"):
        raise AsrCompressError(f"{SWITCH}={switch}: use on or off")
    if switch == "off":
        return None, f"{SWITCH}=off"
    if missing := NEEDED - _processor():
        return None, f"the processor has no {', '.join(sorted(missing))}"
    compiler = (
        shutil.which(os.environ.get("CC", "")) or shutil.which("gcc") or shutil.which("cc") or shutil.which("clang")
    )
    if compiler is None:
        return None, "no C compiler"
    try:
        return ctypes.CDLL(str(_compiled(compiler))), "avx512_vnni"
    except subprocess.TimeoutExpired:
        return None, f"{compiler} took more than {PATIENCE_S} seconds"
    except subprocess.CalledProcessError as error:
        said = str(error.stderr or "").strip().splitlines()
        return None, f"{compiler} failed with status {error.returncode}{f': {said[0][:200]}' if said else ''}"
    except OSError as error:
        return None, f"{compiler} gave no library: {error}"


def library() -> ctypes.CDLL | None:
    """The kernels, or None where this machine cannot have them."""
    return _load()[0]


def state() -> str:
    """Which instructions integers are multiplied with: `avx512_vnni`, or `torch` and why, for sidecars and messages."""
    found, reason = _load()
    return reason if found is not None else f"torch ({reason})"


def _processor() -> set[str]:
    """Feature flags of this machine's processor; empty where /proc does not tell."""
    try:
        text = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace")
    except OSError:
        return set()
    lines = (line.partition(":")[2] for line in text.splitlines() if line.startswith("flags"))
    return set(next(lines, "").split())


def _compiled(compiler: str) -> Path:
    """The library for this source, compiler and processor, compiled unless it was before."""
    sources = sorted(SOURCE.iterdir())
    version = subprocess.run([compiler, "--version"], capture_output=True, text=True, check=True).stdout  # noqa: S603
    key = hashlib.sha256("\0".join([compiler, version, *FLAGS, *sorted(_processor())]).encode())
    for source in sources:
        key.update(source.read_bytes())
    folder = _folder()
    target = folder / f"kernels-{key.hexdigest()[:32]}.so"
    if target.is_file() and _is_ours(target):
        return target
    announce("compiling integer kernels for this processor, once: about 10 seconds")
    handle, temporary = tempfile.mkstemp(suffix=".so", dir=folder)
    os.close(handle)
    try:
        command = [compiler, *FLAGS, str(SOURCE / "kernels.c"), "-o", temporary, "-lm"]
        subprocess.run(command, capture_output=True, text=True, check=True, timeout=PATIENCE_S)  # noqa: S603
        os.replace(temporary, target)
    finally:
        Path(temporary).unlink(missing_ok=True)
    return target


def _folder() -> Path:
    """A folder that is this user's alone: in the cache, else one for this process."""
    try:
        base = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
        folder = base / "asrcompress" / "kernels"
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        if _is_ours(folder) and os.access(folder, os.W_OK):
            return folder
    except (OSError, RuntimeError):  # RuntimeError: nobody says where this user's home is
        pass
    folder = Path(tempfile.mkdtemp(prefix="asrcompress-kernels-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return folder


def _is_ours(path: Path) -> bool:
    found = path.stat()
    return found.st_uid == os.geteuid() and not found.st_mode & 0o022
