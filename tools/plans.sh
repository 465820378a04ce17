#!/usr/bin/env bash
# The section "Sensitivity and plans" of docs/experiments.md, then the page. One process; an hour and a half; goes on where it was stopped.
# usage: bash tools/plans.sh [DATA] [OUT] [--small]
set -euo pipefail
data=$(realpath -m "${1:-$(dirname "$0")/../../shared/data/digits}")
out=$(realpath -m "${2:-$(dirname "$0")/../build/plans}")
cd "$(dirname "$0")/.."
if [ ! -d "$data" ]; then
    echo "plans: $data is not there; give the folder of the digits data: bash tools/plans.sh DATA" >&2
    exit 2
fi
bash tools/setup.sh
PYTHONPATH=tools${PYTHONPATH:+:$PYTHONPATH} exec .venv/bin/python -m experiments.plans_run "$data" "$out" "${@:3}"
