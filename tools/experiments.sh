#!/usr/bin/env bash
# All experiments of docs/experiments.md, then the page itself. Two processes; under an hour on two cores; goes on where it was stopped.
# usage: bash tools/experiments.sh [DATA] [OUT]
set -euo pipefail
data=$(realpath -m "${1:-$(dirname "$0")/../../shared/data/digits}")
out=$(realpath -m "${2:-$(dirname "$0")/../build/experiments}")
cd "$(dirname "$0")/.."
if [ ! -d "$data" ]; then
    echo "experiments: $data is not there; give the folder of the digits data: bash tools/experiments.sh DATA" >&2
    exit 2
fi
bash tools/setup.sh
PYTHONPATH=tools${PYTHONPATH:+:$PYTHONPATH} exec .venv/bin/python -m experiments.run "$data" "$out"
