#!/bin/sh
# Make samples/asr and samples/kws again: speech, vocabulary, both trainings, then copy what ships.
# usage: make_samples.sh WORK     WORK must not exist; it takes 600 MB and is not needed afterwards
# Needs espeak-ng, and a Python environment on the PATH with asrcompress and fairseq-train (fairseq built with its
# compiled parts, and scikit-learn, which its tasks import).
# Measured: 32 minutes on a two-core machine that was busy with other work; about 15 minutes of CPU time on one thread.
set -eu
make=$(cd "$(dirname "$0")" && pwd)
samples=$(dirname "$make")
work=$1
if [ -e "$work" ]; then
    echo "$work: exists; name a folder that does not" >&2
    exit 2
fi
mkdir -p "$work"
export OMP_NUM_THREADS=1

python "$make/make_keyword_clips.py" "$work"
python "$make/train_kws.py" "$work"
python "$make/make_speech.py" "$work"
python "$make/make_vocabulary.py" "$work"
"$make/train_asr.sh" "$work"

cp "$work/ckpt/checkpoint_best.pt" "$work/asr/"
for folder in asr kws; do
    rm -rf "${samples:?}/$folder"
    cp -r "$work/$folder" "$samples/$folder"
done
for split in dev test; do
    python "$make/score_asr.py" "$samples/asr" --split "$split"
done
