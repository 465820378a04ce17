#!/usr/bin/env bash
# Keyword spotting from the published model to the smallest file: distil, quantize, stream, and measure all of it.
# Writes docs/keyword-spotting.md and its pictures from the sidecars in OUT. Goes on where it was stopped; about 3 hours on one core.
# usage: bash tools/kws.sh [DATA] [OUT]     DATA: the folder of the keyword data; the digits and LibriSpeech lie beside it
set -euo pipefail
data=$(realpath -m "${1:-$(dirname "$0")/../../shared/data/kws}")
out=$(realpath -m "${2:-$(dirname "$0")/../build/kws}")
cd "$(dirname "$0")/.."
if [ ! -d "$data" ]; then
    echo "kws: $data is not there; give the folder of the keyword data: bash tools/kws.sh DATA" >&2
    exit 2
fi
bash tools/setup.sh
export PATH="$PWD/.venv/bin:$PATH" OMP_NUM_THREADS=1 PYTHONPATH=tools
base=$data/crnn_happy.pt
clips=(--data "$data/manifest.tsv" --keyword happy)
test=("${clips[@]}" --split test)
mkdir -p "$out"

# FILE NAME: AU FA-FR on the test split, and MACs of the published table's input, 128 clips of 101 frames.
measure() {
    local compare=(--baseline "$out/base.eval.json")
    [ "$2" = base ] && compare=()
    [ -f "$out/$2.analyze.json" ] || asrcompress analyze "$1" --batch-size 128 -o "$out/$2.analyze.json" >/dev/null 2>&1
    [ -f "$out/$2.eval.json" ] || asrcompress eval "$1" "${test[@]}" --batch-size 64 "${compare[@]}" -o "$out/$2.eval.json" >/dev/null
}

# SIZES SEED NAME: a student of the published model, in float.
student() {
    [ -f "$out/$3.safetensors.json" ] || asrcompress distill "$base" --student "kws_crnn:$1" "${clips[@]}" --seed "$2" \
        --resume -o "$out/$3.safetensors" >/dev/null 2>>"$out/$3.log"
    measure "$out/$3.safetensors" "$3"
}

# STUDENT SEED NAME [OPTIONS]: a student trained on the grid that it is stored on, integers all the way, in the compact layout.
packed() {
    local student=$1 seed=$2 name=$3
    shift 3
    [ -f "$out/$name.safetensors.json" ] || asrcompress quantize "$out/$student.safetensors" --config samples/recipes/kws-int2.toml \
        --finetune "$data/manifest.tsv" --keyword happy --teacher "$base" --seed "$seed" "$@" \
        --resume -o "$out/$name.safetensors" >/dev/null 2>>"$out/$name.log"
    measure "$out/$name.safetensors" "$name"
}

measure "$base" base

# The report's sizes, and its way of quantizing: 8 bits, activations scaled as they come.
student channels=4,hidden=32 1 c4h32
student channels=4,hidden=16 1 c4h16
for seed in 1 2 3; do student channels=2,hidden=12 "$seed" "c2h12-s$seed"; done
for name in base c2h12-s1; do
    file=$out/$name.safetensors
    [ $name = base ] && file=$base
    [ -f "$out/$name-int8.safetensors.json" ] ||
        asrcompress quantize "$file" --bits 8 --activations int8 -o "$out/$name-int8.safetensors" >/dev/null
    measure "$out/$name-int8.safetensors" "$name-int8"
done

# Few bits.
packed c4h32 1 c4h32-int2
packed c4h16 1 c4h16-int2
packed c2h12-s1 1 c2h12-int4 --bits 4
for seed in 1 2 3; do
    packed "c2h12-s$seed" "$seed" "c2h12-int2-s$seed"
    packed "c2h12-s$seed" "$seed" "c2h12-int2t-s$seed" --granularity per_tensor
done

# Running audio: streaming beside offline in 20 cuttings, and false accepts an hour over at least two hours of other speech.
digits=$(dirname "$data")/digits
[ -d "$out/negative" ] || .venv/bin/python -m experiments.compose "$digits" "$out/negative" train 1800 3
awk -F'\t' 'NR == 1 || ($3 == "test" && ++count % 17 == 0)' "$data/manifest.tsv" >"$out/some.tsv" # of every kind
for pair in "base $base" "no-loss $out/c2h12-int2t-s3.safetensors" "smallest $out/c2h12-int2t-s1.safetensors"; do
    name=${pair%% *} file=${pair#* }
    for seed in $(seq 20); do
        [ -f "$out/$name.streaming-$seed.json" ] || asrcompress eval "$file" --data "$out/some.tsv" --audio-root "$data" \
            --keyword happy --streaming --chunk-ms 10..500 --seed "$seed" -o "$out/$name.streaming-$seed.json" >/dev/null
    done
    [ -f "$out/$name.long-form.json" ] || asrcompress eval "$file" "${test[@]}" --long-form "$out/negative/train.tsv" \
        --long-form "$(dirname "$data")/LibriSpeech" --false-reject-rate 0.05 -o "$out/$name.long-form.json" >/dev/null
done
mkdir -p docs/experiments/keywords
shown=(c4h32 c4h16 c2h12-s1 c2h12-s1-int8 base-int8 c4h32-int2 c4h16-int2 c2h12-int4 c2h12-int2-s1 c2h12-int2t-s1 c2h12-int2t-s3)
sidecars=()
for name in "${shown[@]}"; do sidecars+=("$out/$name.eval.json" "$out/$name.analyze.json"); done
asrcompress report "${sidecars[@]}" --baseline "$out/base.eval.json" --baseline "$out/base.analyze.json" --plots "$out/plots" --force >"$out/table.txt"
asrcompress report "$out/smallest.long-form.json" --plots "$out/posterior" --force >/dev/null
cp "$out"/plots/au_fa_fr-against-*.svg docs/experiments/keywords/
cp "$out"/posterior/posterior-*.svg docs/experiments/keywords/posterior.svg
.venv/bin/python -m experiments.kws_page "$out"
