"""Learn the SentencePiece pieces and write what Fairseq needs beside the tables: dictionary and config.yaml.

usage: python make_vocabulary.py WORK [--size 64]

Reads WORK/data/text.txt; writes spm_unigram.{model,vocab,txt} and config.yaml into both WORK/data and WORK/asr.
"""

from __future__ import annotations

import argparse
import io
import shutil
from pathlib import Path

import sentencepiece

CONFIG = """\
bpe_tokenizer:
  bpe: sentencepiece
  sentencepiece_model: spm_unigram.model
input_channels: 1
input_feat_per_channel: 80
specaugment:
  freq_mask_F: 15
  freq_mask_N: 2
  time_mask_N: 2
  time_mask_T: 12
  time_mask_p: 1.0
  time_wrap_W: 0
transforms:
  '*':
  - utterance_cmvn
  _train:
  - utterance_cmvn
  - specaugment
vocab_filename: spm_unigram.txt
"""


def main() -> None:
    """Train the pieces, then write the dictionary: one `piece 1` a line, without the four special symbols."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("--size", type=int, default=64)
    options = parser.parse_args()
    data, asr = options.work / "data", options.work / "asr"
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.train(
        # an iterator and a writer, not paths: the model file records the paths it is given
        sentence_iterator=iter((data / "text.txt").read_text().splitlines()), model_writer=model, vocab_size=options.size,
        model_type="unigram", character_coverage=1.0, unk_id=3, bos_id=0, pad_id=1, eos_id=2, minloglevel=2,
    )  # fmt: skip
    (data / "spm_unigram.model").write_bytes(model.getvalue())
    processor = sentencepiece.SentencePieceProcessor(model_proto=model.getvalue())
    pieces = [(processor.id_to_piece(index), processor.get_score(index)) for index in range(len(processor))]
    (data / "spm_unigram.vocab").write_text("".join(f"{piece}\t{score:g}\n" for piece, score in pieces))
    (data / "spm_unigram.txt").write_text("".join(f"{piece} 1\n" for piece, _ in pieces[4:]))
    (data / "config.yaml").write_text(CONFIG)
    for name in ("spm_unigram.model", "spm_unigram.vocab", "spm_unigram.txt", "config.yaml"):
        shutil.copyfile(data / name, asr / name)


if __name__ == "__main__":
    main()
