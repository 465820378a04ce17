"""Small sets of speech, made on the spot."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import soundfile


@pytest.fixture
def speak(tmp_path: Path) -> Callable[..., Path]:
    """Write a short file below tmp_path whose samples depend on its name alone."""

    def write(name: str) -> Path:
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        samples = np.random.default_rng(list(path.stem.encode())).uniform(-0.1, 0.1, 160)
        soundfile.write(path, samples, 16000)
        return path

    return write
