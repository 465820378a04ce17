#!/usr/bin/env bash
# Run the benches of tests/bench beside the tools that a user would pick instead, and write docs/benchmarks.md from what they find.
# usage: bash tools/bench.sh [NAME...]     NAME: encoder eval decoding c_export sizes packing startup big_model; all without any
# Environment: DATA, the folder with digits/ and kws/; KEYWORDS, integer-only keyword artifacts for c_export, separated by spaces;
# SCRATCH, a folder with room for 20 GB on the disk that is measured.
# Each takes under 5 minutes on a quiet machine but big_model, which takes 20. Clocks tell little while anything else runs.
set -euo pipefail
data=$(realpath -m "${DATA:-$(dirname "$0")/../../shared/data}")
scratch=$(realpath -m "${SCRATCH:-$(dirname "$0")/../build/bench}")
cd "$(dirname "$0")/.."
names=("$@")
[ $# -gt 0 ] || names=(encoder eval decoding c_export sizes packing startup big_model)

bash tools/setup.sh
# The peers' environment sees .venv's packages, so that all run on one torch; what it has in other versions is its own.
wanted=$(cat .venv/asrcompress-setup tests/bench/requirements.txt tools/bench.sh | sha256sum | cut -d' ' -f1)
if [ "$(cat .venv-bench/asrcompress-setup 2>/dev/null)" != "$wanted" ]; then
    echo "bench: making .venv-bench; about 2 minutes and 1 GB" >&2
    rm -rf .venv-bench
    .venv/bin/python -m venv --without-pip .venv-bench
    site=$(.venv-bench/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))')
    .venv/bin/python -c 'import sysconfig; print(sysconfig.get_path("purelib"))' >"$site/asrcompress-environment.pth"
    .venv-bench/bin/python -m pip install --quiet --disable-pip-version-check --requirement tests/bench/requirements.txt
    echo "$wanted" >.venv-bench/asrcompress-setup
fi

export OMP_NUM_THREADS=1 PYTHONPATH=$PWD
# The published keyword model in integers, where no other artifacts are named.
keywords() {
    artifacts=()
    for name in ${KEYWORDS:-}; do artifacts+=("$name"); done
    [ ${#artifacts[@]} -eq 0 ] || return 0
    for bits in 8 2; do
        artifacts+=("$scratch/happy.int$bits.safetensors")
        .venv/bin/asrcompress quantize "$data/kws/crnn_happy.pt" --bits $bits --level integer-only \
            --calibrate "$data/kws/manifest.tsv" --force -o "${artifacts[-1]}" >/dev/null
    done
}
mkdir -p docs/benchmarks "$scratch"
bench() { # NAME ARGUMENTS...
    local name=$1 file=docs/benchmarks/$1.json python=.venv/bin/python
    shift
    case $name in encoder | packing | sizes) python=.venv-bench/bin/python ;; esac
    echo "bench: $name" >&2
    "$python" -m "tests.bench.bench_$name" "$@" --json "$file" || failed+=("$name")
    [ ! -f "$file" ] || "$python" -m tests.bench.rounds "$name" "$file"
}
failed=()
for name in "${names[@]}"; do
    case $name in
        encoder) bench encoder --part layers whole ;;
        eval | decoding) bench "$name" "$data/digits/checkpoint_best.pt" "$data/digits/test.tsv" ;;
        c_export)
            keywords
            bench c_export "${artifacts[@]}" --data "$data/kws/manifest.tsv"
            ;;
        packing | big_model) bench "$name" "$scratch" ;;
        sizes | startup) bench "$name" ;;
        *)
            echo "bench: no bench is called $name; use encoder, eval, decoding, c_export, sizes, packing, startup or big_model" >&2
            exit 2
            ;;
    esac
done
PYTHONPATH=tools .venv/bin/python -m benchmarks.page
if [ ${#failed[@]} -gt 0 ]; then
    echo "bench: failed, or missed its goal: ${failed[*]}" >&2
    exit 1
fi
