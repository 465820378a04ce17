"""Sets of utterances composed of the data's single recordings by the data's own script, make_train.py.

python -m experiments.compose DATA FOLDER SPLIT NUM_UTTERANCES SEED     writes FOLDER/SPLIT.tsv and its audio, whole or not at all
"""

from __future__ import annotations

import shutil
import subprocess
import sys
from pathlib import Path


def compose_set(data: Path, folder: Path, split: str, num_utterances: int, seed: int) -> None:
    """A set of the recordings of one split; what is there is not made again."""
    if folder.is_dir():
        return
    part = folder.with_name(f"{folder.name}.part")
    shutil.rmtree(part, ignore_errors=True)
    options = ["--split", split, "--utterances", str(num_utterances), "--seed", str(seed)]
    subprocess.run([sys.executable, str(data / "make_train.py"), str(part), *options], check=True)  # noqa: S603
    part.rename(folder)


if __name__ == "__main__":
    compose_set(Path(sys.argv[1]), Path(sys.argv[2]), sys.argv[3], int(sys.argv[4]), int(sys.argv[5]))
