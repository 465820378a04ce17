#!/usr/bin/env bash
# Make the environment .venv in the project's folder, with asrcompress and all it needs. Run again, it does nothing.
# Needs: Linux, Python 3.11 or 3.12, pip 22.3 or later. usage: bash tools/setup.sh
set -euo pipefail
cd "$(dirname "$0")/.."
export PIP_DISABLE_PIP_VERSION_CHECK=1

find_python() {
    for candidate in "${PYTHON:-}" python3.11 python3.12 python3; do
        if [ -n "$candidate" ] && "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
            echo "$candidate"
            return
        fi
    done
    echo "setup: no Python 3.11 or 3.12 found; install one, or name it: PYTHON=/path/to/python3.11" >&2
    exit 2
}

# What decides whether an existing environment still fits.
wanted=$(cat pyproject.toml tools/setup.sh | sha256sum | cut -d' ' -f1)
marker=.venv/asrcompress-setup
if [ -f "$marker" ] && [ "$(cat "$marker")" = "$wanted" ]; then
    exit 0
fi

python=$(find_python)
echo "setup: making .venv with $("$python" --version); about 3 minutes and 6 GB" >&2
rm -rf .venv
# --without-pip: Debian's Python makes no pip in environments unless python3-venv is installed.
"$python" -m venv --without-pip .venv
"$python" -m pip --python .venv/bin/python install --quiet pip 'setuptools>=77' wheel 'cython>=3' numpy

# The build needs these at hand, since Fairseq is built without isolation: an isolated build would
# download a second torch. READTHEDOCS=1 leaves out its compiled extensions, which only training needs.
.venv/bin/python -m pip install --quiet torch==2.11.0 torchaudio==2.11.0
READTHEDOCS=1 .venv/bin/python -m pip install --quiet --no-build-isolation --no-deps fairseq-fixed==0.12.3.1
.venv/bin/python -m pip install --quiet --editable '.[dev]'
echo "$wanted" >"$marker"
