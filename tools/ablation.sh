#!/usr/bin/env bash
# The section "Few bits and few weights together" of docs/experiments.md, then the page. Goes on where it was stopped.
# usage: bash tools/ablation.sh [DATA] [OUT] [--jobs N] [--device cpu|cuda] [--small] [--only NAME ...] [--set KEY=VALUE[,VALUE] ...]
#        [--minutes M] [--pack FILE.tar.gz [--models]] [--composed-only] [--collect]
set -euo pipefail
given=()
while [ $# -gt 0 ] && [ ${#given[@]} -lt 2 ] && [[ $1 != --* ]]; do
    given+=("$1")
    shift
done
data=$(realpath -m "${given[0]:-$(dirname "$0")/../../shared/data/digits}")
out=$(realpath -m "${given[1]:-$(dirname "$0")/../build/ablation}")
cd "$(dirname "$0")/.."
if [ ! -d "$data" ]; then
    echo "ablation: $data is not there; give the folder of the digits data: bash tools/ablation.sh DATA" >&2
    exit 2
fi
bash tools/setup.sh
PYTHONPATH=tools${PYTHONPATH:+:$PYTHONPATH} exec .venv/bin/python -m experiments.ablation_run "$data" "$out" "$@"
