"""Make the keyword data: one-second clips of `computer`, of words that sound like it and of other words.

usage: python make_keyword_clips.py WORK [--seed 13]

Writes WORK/kws/manifest.tsv (path, word, split) with clips/*.flac for dev and test (what samples/kws holds), and
WORK/data/keyword_train.npz (int16 clips (n, 16000) and is_keyword (n,)) for training. Some of the similar words are in
dev and test only, and half of the dev and test clips are in voices that no training clip has.
"""

# ruff: noqa: SIM905 (word lists read best as text)
from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import soundfile
from espeak import SAMPLE_RATE_HZ, draw_voice, mix, speak

KEYWORD = "computer"
SIMILAR = (
    "commuter compute computing consumer container compiler composer commander tutor scooter recruiter pewter".split()
)
SIMILAR_HELD_OUT = "polluter disputer compressor conductor confuse router".split()
OTHER = (
    "hello weather kitchen bedroom garden light heater radio music timer alarm open close turn volume seven eleven "
    "minutes degrees window yellow monday picture number water today question remember never coffee"
).split()
NUM_TRAIN = (900, 1100, 1100)  # clips of the keyword, of similar words, of other words
NUM_CLIPS = {"dev": (22, 25, 25), "test": (42, 48, 48)}
SNR_DB = {"train": (0, 30), "dev": (-6, 10), "test": (-3, 14)}


def clip(rng: np.random.Generator, word: str, split: str) -> np.ndarray:
    """One second of `word` somewhere between silence and silence, in noise: int16 (16000,); longer words are cut."""
    speech = speak(word, draw_voice(rng, split))[: SAMPLE_RATE_HZ - 800]
    room_s = (SAMPLE_RATE_HZ - len(speech)) / SAMPLE_RATE_HZ
    lead_s = rng.uniform(0.02, room_s)
    samples = mix(
        rng, speech, lead_s=lead_s, tail_s=room_s - lead_s + 0.01, snr_db=rng.uniform(*SNR_DB[split]),
        rms=rng.uniform(0.0008, 0.0016),
    )  # fmt: skip
    return samples[:SAMPLE_RATE_HZ]


def draw_words(rng: np.random.Generator, split: str, counts: tuple[int, int, int]) -> list[str]:
    """The words of a split, shuffled."""
    similar = SIMILAR if split == "train" else SIMILAR + SIMILAR_HELD_OUT
    words = [KEYWORD] * counts[0]
    words += [str(rng.choice(similar)) for _ in range(counts[1])] + [str(rng.choice(OTHER)) for _ in range(counts[2])]
    return [str(word) for word in rng.permutation(words)]


def main() -> None:
    """Write the manifest, its clips and the training array."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--seed", type=int, default=13)
    options = parser.parse_args()
    folder = options.work / "kws"
    (folder / "clips").mkdir(parents=True, exist_ok=True)
    (options.work / "data").mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(options.seed)
    with open(folder / "manifest.tsv", "w", newline="") as file:
        writer = csv.writer(file, delimiter="\t", lineterminator="\n")
        writer.writerow(["path", "word", "split"])
        for split, counts in NUM_CLIPS.items():
            for index, word in enumerate(draw_words(rng, split, counts)):
                path = f"clips/{split}_{index:03d}_{word}.flac"
                soundfile.write(folder / path, clip(rng, word, split), SAMPLE_RATE_HZ, subtype="PCM_16")
                writer.writerow([path, word, split])
    words = draw_words(rng, "train", NUM_TRAIN)
    clips = np.stack([clip(rng, word, "train") for word in words])
    np.savez(
        options.work / "data" / "keyword_train.npz", clips=clips, is_keyword=np.array([w == KEYWORD for w in words])
    )


if __name__ == "__main__":
    main()
