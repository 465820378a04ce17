"""Score the ASR sample with Fairseq itself: WER over every utterance of a split, from the FLAC files.

usage: python score_asr.py ASR_FOLDER [--split test] [--beam 5] [--checkpoint checkpoint_best.pt] [--show 10]

An answer independent of asrcompress, for the README. Not fairseq-generate: that reads audio through
torchaudio.sox_effects, which is gone, and drops what does not fill a batch of eight. Unpickles the checkpoint: only for
a file you made yourself.
"""

from __future__ import annotations

import argparse
import csv
import os
from pathlib import Path

import jiwer
import numpy as np
import soundfile
import torch
from torchaudio.compliance.kaldi import fbank


def features(path: Path) -> torch.Tensor:
    """80-dim fbank of a 16 kHz FLAC, mean and variance normalised over the utterance: (frames, 80)."""
    samples, rate_hz = soundfile.read(path, dtype="float32")
    matrix = fbank(torch.from_numpy(samples)[None] * 2**15, num_mel_bins=80, sample_frequency=rate_hz).numpy()
    mean = matrix.mean(axis=0)
    variance = (matrix**2).sum(axis=0) / len(matrix) - mean**2
    return torch.from_numpy((matrix - mean) / np.sqrt(np.maximum(variance, 1e-10)))


def main() -> None:
    """Decode the split, one utterance at a time, and print WER, counts and the first mistakes."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--split", default="test")
    parser.add_argument("--beam", type=int, default=5)
    parser.add_argument("--checkpoint", default="checkpoint_best.pt")
    parser.add_argument("--show", type=int, default=10)
    options = parser.parse_args()
    torch.set_num_threads(1)
    os.environ["TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"] = "1"  # Fairseq's torch.load meets an argparse.Namespace

    from fairseq.checkpoint_utils import load_model_ensemble_and_task

    models, _, task = load_model_ensemble_and_task(
        [str(options.folder / options.checkpoint)], arg_overrides={"data": str(options.folder)}
    )
    model = models[0].eval()
    generator = task.build_generator([model], argparse.Namespace(beam=options.beam, max_len_a=0, max_len_b=60))
    with open(options.folder / f"{options.split}.tsv", newline="") as file:
        rows = list(csv.DictReader(file, delimiter="\t"))
    hypotheses = []
    with torch.no_grad():
        for row in rows:
            source = features(options.folder / row["audio"])[None]
            sample = {"net_input": {"src_tokens": source, "src_lengths": torch.tensor([source.shape[1]])}}
            pieces = task.tgt_dict.string(generator.generate([model], sample)[0][0]["tokens"])
            hypotheses.append(pieces.replace(" ", "").replace("\u2581", " ").strip())
    references = [row["tgt_text"] for row in rows]
    result = jiwer.process_words(references, hypotheses)
    words = result.hits + result.substitutions + result.deletions
    print(f"{options.split}: {len(rows)} utterances, {words} words, beam {options.beam}: WER {result.wer:.4f} "
          f"({result.substitutions} sub, {result.insertions} ins, {result.deletions} del)")  # fmt: skip
    wrong = [pair for pair in zip(rows, hypotheses, strict=True) if pair[0]["tgt_text"] != pair[1]]
    for row, hypothesis in wrong[: options.show]:
        print(f"  {row['id']} {row['speaker']}: {row['tgt_text']} | {hypothesis}")


if __name__ == "__main__":
    main()
