#!/usr/bin/env bash
# Set up the environment and do the main job on the samples: analyze, quantize, evaluate, report with a gate.
# Writes to demo-out/ (or the folder given as argument) and prints the table and the report's path.
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup.sh
export PATH="$PWD/.venv/bin:$PATH"
out=${1:-demo-out}
mkdir -p "$out"
asr=samples/asr/checkpoint_best.pt

asrcompress analyze "$asr" -o "$out/float.analyze.json" --force >"$out/float.analyze.txt" 2>&1
tail -n 4 "$out/float.analyze.txt" | head -n 3
asrcompress eval "$asr" --data samples/asr/test.tsv -o "$out/float.eval.json" --force >/dev/null

for bits in 8 4; do
    model="$out/asr.int$bits.safetensors"
    asrcompress quantize "$asr" --bits "$bits" --activations int8 -o "$model" --force |
        asrcompress eval --data samples/asr/test.tsv --baseline "$out/float.eval.json" --force >/dev/null
    asrcompress analyze "$model" --force >/dev/null 2>&1
done

# No float between features and logits: activation grids come from the dev set, and the audit has to prove the level.
model="$out/asr.integer-only.safetensors"
asrcompress quantize "$asr" --level integer-only --calibrate samples/asr/dev.tsv --calibration-method mse -o "$model" --force |
    asrcompress analyze --require-level integer-only --force 2>"$out/integer-only.analyze.txt" |
    asrcompress eval --data samples/asr/test.tsv --baseline "$out/float.eval.json" --force >/dev/null
grep -e '^honesty' -e '^float operations' "$out/integer-only.analyze.txt"

asrcompress report "$out"/asr.{int8,int4,integer-only}.safetensors{,.analyze,.eval}.json --baseline "$out/float.eval.json" \
    --baseline "$out/float.analyze.json" --html "$out/report.html" --junit "$out/report.xml" --force \
    --require 'ratio.model_size_bytes<=0.30' --require 'relative.wer<=0.05 or excess.wer<=0'
echo "report: $(realpath "$out/report.html")"
