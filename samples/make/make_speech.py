"""Make the ASR data: spoken device commands, as FLAC with transcripts (dev, test) and as features (words, train, dev).

usage: python make_speech.py WORK [--utterances 8000] [--seed 7]

Writes WORK/asr/{dev,test}.tsv with audio/*.flac (what samples/asr holds) and WORK/data/{train_words,train,dev}.tsv with
fbank/*.npy (what fairseq-train reads; Fairseq's own path from audio files needs torchaudio.sox_effects, which is gone).
`train_words` is the curriculum's first half: single words and pairs. No sentence of dev or test is in train.
"""

# ruff: noqa: SIM905 (word lists read best as text)
from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import soundfile
import torch
from espeak import SAMPLE_RATE_HZ, draw_voice, mix, speak
from torchaudio.compliance.kaldi import fbank

ROOMS = "kitchen bedroom bathroom garage garden".split()
DEVICES = "light fan heater radio".split()
OPENINGS = "door window blind".split()
UNITS = "two three four five six seven eight nine".split()
TENS = "twenty thirty forty fifty".split()
TEENS = "ten eleven twelve fifteen eighteen".split()
VERBS = "turn on off set to the open close play stop in for timer alarm minutes seconds degrees music volume".split()
WORDS = VERBS + ROOMS + DEVICES + OPENINGS + UNITS + TENS + TEENS
SNR_DB = {"train_words": (2, 30), "train": (0, 25), "dev": (0, 16), "test": (0, 16)}
NUM_DEV, NUM_TEST = 32, 84


def number(rng: np.random.Generator) -> str:
    """A number between two and fifty nine, in words."""
    kind = rng.integers(4)
    if kind == 0:
        return str(rng.choice(UNITS))
    if kind == 1:
        return str(rng.choice(TEENS + TENS))
    return f"{rng.choice(TENS)} {rng.choice(UNITS)}"


def sentence(rng: np.random.Generator) -> str:
    """One command of the small grammar."""
    room, device, opening = rng.choice(ROOMS), rng.choice(DEVICES), rng.choice(OPENINGS)
    patterns = (
        f"turn {rng.choice(['on', 'off'])} the {room} {device}",
        f"turn the {room} {device} {rng.choice(['on', 'off'])}",
        f"{rng.choice(['open', 'close'])} the {room} {opening}",
        f"{rng.choice(['play', 'stop'])} the {rng.choice(['music', 'radio'])} in the {room}",
        f"set the {rng.choice(['timer', 'alarm'])} for {number(rng)} {rng.choice(['minutes', 'seconds'])}",
        f"set the {room} heater to {number(rng)} degrees",
        f"set the {room} {rng.choice(['volume', 'fan', 'light'])} to {number(rng)}",
    )
    return str(patterns[rng.integers(len(patterns))])


def plan(rng: np.random.Generator, num_train: int) -> dict[str, list[str]]:
    """The texts of each split."""
    held_out: set[str] = set()
    while len(held_out) < NUM_DEV + NUM_TEST:
        held_out.add(sentence(rng))
    order = [str(text) for text in rng.permutation(sorted(held_out))]
    train = [text for text in (sentence(rng) for _ in range(2 * num_train)) if text not in held_out][:num_train]
    words = [word for word in WORDS for _ in range(30)]
    words += [f"{rng.choice(WORDS)} {rng.choice(WORDS)}" for _ in range(num_train // 5)]
    return {"train_words": words, "train": train, "dev": order[:NUM_DEV], "test": order[NUM_DEV:]}


def write_split(work: Path, split: str, texts: list[str], rng: np.random.Generator) -> None:
    """Speak every text and write what the split needs: FLAC for dev and test, features for all but test."""
    rows: dict[str, list[list[object]]] = {"asr": [], "data": []}
    for index, text in enumerate(texts):
        voice = draw_voice(rng, split)
        samples = mix(
            rng, speak(text, voice), lead_s=rng.uniform(0.05, 0.2), tail_s=rng.uniform(0.05, 0.2),
            snr_db=rng.uniform(*SNR_DB[split]), rms=rng.uniform(0.0018, 0.0036),
        )  # fmt: skip
        name = f"{split}_{index:05d}" if split.startswith("train") else f"{split}_{index:03d}"
        row = [name, None, 1 + (len(samples) - 400) // 160, text, voice.name]
        if split in ("dev", "test"):
            row[1] = f"audio/{name}.flac"
            soundfile.write(work / "asr" / row[1], samples, SAMPLE_RATE_HZ, subtype="PCM_16")
            rows["asr"].append(list(row))
        if split != "test":
            # float32 at the scale of 16-bit integers: the same numbers as fbank(waveform in [-1, 1] * 2**15)
            features = fbank(torch.from_numpy(samples).float()[None], num_mel_bins=80, sample_frequency=SAMPLE_RATE_HZ)
            row[1] = f"data/fbank/{name}.npy"
            np.save(work / row[1], features.numpy())
            rows["data"].append(row)
    for folder, table in rows.items():
        if table:
            with open(work / folder / f"{split}.tsv", "w", newline="") as file:
                writer = csv.writer(file, delimiter="\t", lineterminator="\n")
                writer.writerow(["id", "audio", "n_frames", "tgt_text", "speaker"])
                writer.writerows(table)


def main() -> None:
    """Write all splits and the text that SentencePiece learns its pieces from."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--utterances", type=int, default=8000)
    parser.add_argument("--seed", type=int, default=7)
    options = parser.parse_args()
    torch.set_num_threads(1)
    for folder in ("asr/audio", "data/fbank"):
        (options.work / folder).mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(options.seed)
    texts = plan(rng, options.utterances)
    for split in ("dev", "test", "train_words", "train"):
        write_split(options.work, split, texts[split], rng)
    (options.work / "data" / "text.txt").write_text("\n".join(texts["train"] + WORDS) + "\n")


if __name__ == "__main__":
    main()
