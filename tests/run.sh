#!/usr/bin/env bash
# Set up the environment, check style and types, run all tests. Arguments go to pytest.
set -euo pipefail
cd "$(dirname "$0")/.."
bash tools/setup.sh
export OMP_NUM_THREADS=1
.venv/bin/ruff check .
.venv/bin/ruff format --check asrcompress tests samples tools
.venv/bin/mypy asrcompress
# Two worker processes with one thread each: two threads on a shared two-core machine wait for each other.
.venv/bin/python -m pytest -n 2 --dist loadfile "$@"
