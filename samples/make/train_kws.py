"""Train the keyword sample: the base CRNN (C=8, H=64), one thread, a few minutes.

usage: python train_kws.py WORK [--epochs 40] [--seed 5]     (after make_keyword_clips.py WORK)

Reads WORK/data/keyword_train.npz and WORK/kws/manifest.tsv; writes WORK/kws/crnn_computer.pt, a plain state dict with
label order (other, keyword), and prints AU FA-FR of dev and test. Takes the last epoch:
no choice is made on dev or test.
"""

from __future__ import annotations

import argparse
import csv
from pathlib import Path

import numpy as np
import soundfile
import torch
from torch import Tensor
from torchaudio.transforms import FrequencyMasking, MelSpectrogram, TimeMasking

from asrcompress.models.crnn import CRNN

KEYWORD = "computer"
BATCH_SIZE = 64
MEL = MelSpectrogram(sample_rate=16000, n_fft=400, win_length=400, hop_length=160, n_mels=40)


def log_mel(waveform: Tensor) -> Tensor:
    """(batch, 16000) in [-1, 1] -> (batch, 40, 101)."""
    return torch.log(MEL(waveform).clamp(1e-9, 1e9))


def au_fa_fr(scores: np.ndarray, is_keyword: np.ndarray) -> float:
    """Area under the curve of false rejects over false accepts, both counted over all clips, trapezoid rule."""
    thresholds = np.sort(np.concatenate([[0.0], scores, [1.0]]))
    false_accepts = [np.sum((scores >= t) & ~is_keyword) / len(scores) for t in thresholds]
    false_rejects = [np.sum((scores < t) & is_keyword) / len(scores) for t in thresholds]
    return float(np.trapezoid(false_rejects[::-1], false_accepts[::-1]))


def evaluate(model: CRNN, folder: Path, split: str) -> float:
    """AU FA-FR of the manifest's split."""
    with open(folder / "manifest.tsv", newline="") as file:
        rows = [row for row in csv.DictReader(file, delimiter="\t") if row["split"] == split]
    clips = torch.stack([torch.from_numpy(soundfile.read(folder / row["path"], dtype="float32")[0]) for row in rows])
    with torch.no_grad():
        scores = model.eval()(log_mel(clips)).softmax(-1)[:, 1].double().numpy()
    return au_fa_fr(scores, np.array([row["word"] == KEYWORD for row in rows]))


def augment(clips: Tensor) -> Tensor:
    """Shift by up to 50 ms, change the level by up to 6 dB, and mask a band and a stretch: (batch, 40, 101)."""
    shift = int(torch.randint(-800, 801, ()))
    level = 2.0 ** torch.empty(len(clips), 1).uniform_(-1, 1)
    features = log_mel(torch.roll(clips, shift, dims=1) * level)
    return TimeMasking(12)(FrequencyMasking(6)(features))


def main() -> None:
    """Train, report every tenth epoch, save the state dict."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--epochs", type=int, default=40)
    parser.add_argument("--seed", type=int, default=5)
    options = parser.parse_args()
    torch.set_num_threads(1)
    torch.manual_seed(options.seed)
    with np.load(options.work / "data" / "keyword_train.npz") as data:
        clips = torch.from_numpy(data["clips"]).float() / 2**15
        labels = torch.from_numpy(data["is_keyword"]).long()
    model = CRNN(8, 64)
    optimizer = torch.optim.Adam(model.parameters(), lr=2e-3, weight_decay=1e-5)
    num_batches = -(-len(clips) // BATCH_SIZE)
    schedule = torch.optim.lr_scheduler.OneCycleLR(optimizer, 2e-3, total_steps=options.epochs * num_batches)
    for epoch in range(1, options.epochs + 1):
        model.train()
        total = 0.0
        for batch in torch.randperm(len(clips)).split(BATCH_SIZE):
            loss = torch.nn.functional.cross_entropy(model(augment(clips[batch])), labels[batch])
            optimizer.zero_grad()
            loss.backward()
            torch.nn.utils.clip_grad_norm_(model.parameters(), 5.0)
            optimizer.step()
            schedule.step()
            total += float(loss.detach()) * len(batch)
        if epoch % 10 == 0 or epoch == options.epochs:
            areas = {split: evaluate(model, options.work / "kws", split) for split in ("dev", "test")}
            print(
                f"epoch {epoch}: loss {total / len(clips):.4f}, AU FA-FR dev {areas['dev']:.3e}, test {areas['test']:.3e}"
            )
    torch.save(model.state_dict(), options.work / "kws" / f"crnn_{KEYWORD}.pt")


if __name__ == "__main__":
    main()
