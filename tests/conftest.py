"""Fixtures shared by all tests: the folders of real speech, skipped visibly where they are absent."""

from __future__ import annotations

from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]


def _shared(name: str) -> Path:
    folder = ROOT.parent / "shared" / "data" / name
    if not folder.is_dir():
        pytest.skip(f"../shared/data/{name} is absent: real speech and checkpoints are needed")
    return folder


@pytest.fixture(scope="session")
def digits_dir() -> Path:
    return _shared("digits")


@pytest.fixture(scope="session")
def kws_dir() -> Path:
    return _shared("kws")


@pytest.fixture(scope="session")
def librispeech_dir() -> Path:
    return _shared("LibriSpeech")


@pytest.fixture(scope="session")
def samples_dir() -> Path:
    return ROOT / "samples"
