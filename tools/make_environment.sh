#!/bin/sh
# Make or update .venv from requirements.txt, and install the checkout into it.
# $PYTHON names the interpreter to use; without it, the first of the usual names that will do.
set -eu
cd "$(dirname "$0")/.."

is_new_enough() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }

find_python() {
    if [ -n "${PYTHON:-}" ]; then
        set -- "$PYTHON"
    else
        set -- python3 python3.13 python3.12 python3.11 python
    fi
    for name; do
        if is_new_enough "$name"; then echo "$name"; return; fi
    done
    if [ -n "${PYTHON:-}" ]; then
        echo "PYTHON=$PYTHON is not Python 3.11 or newer" >&2
    else
        echo "Python 3.11 or newer not found; install it, or name it: make PYTHON=/path/to/python book" >&2
    fi
    return 1
}

if ! is_new_enough .venv/bin/python; then  # none yet, or its interpreter is gone
    python=$(find_python)
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        echo "$python has no venv module; on Debian or Ubuntu: apt-get install python3-venv" >&2
        exit 1
    fi
    rm -rf .venv
    "$python" -m venv .venv
fi

echo "Installing the environment into .venv (the first time takes minutes) ..."
pip=".venv/bin/python -m pip --disable-pip-version-check"
$pip install -qq -r requirements.txt
$pip install -qq --no-deps --no-build-isolation -e .
# Matplotlib's first import writes a font cache, and says so on stderr, in whichever cell it happens.
.venv/bin/python -c 'import matplotlib.font_manager' 2>/dev/null
touch .venv/installed
