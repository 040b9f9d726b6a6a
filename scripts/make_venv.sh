#!/usr/bin/env bash
# Make .venv and install the library with the tested versions. On a bare Debian machine, as root, the system packages
# that are missing are installed first; elsewhere the one line that is needed is printed.
set -euo pipefail
cd "$(dirname "$0")/.."
source scripts/debian.sh
python=${PYTHON:-python3}

library() { ldconfig -p 2>/dev/null | grep -q "$1"; }

"$python" -c 'import sys; sys.exit(sys.version_info < (3, 10))' || { echo "Python 3.10 or newer is needed" >&2; exit 1; }

if ! [ -x .venv/bin/pip ]; then
    "$python" -c 'import ensurepip, venv' 2>/dev/null || system python3-venv
    "$python" -m venv --clear .venv
fi

# only pictures and videos need these: going on without them is fine
if [ "$(uname)" = Linux ] && ! { library libEGL.so && library libGL.so && library libOSMesa.so; }; then
    system libegl1 libgl1 libosmesa6 || echo "without them everything but rendering works" >&2
fi

# MuJoCo 3 is one package, MuJoCo 4 three that share its folder: where pip replaces one by the other, files are lost
pinned=$(sed -n 's/^mujoco==//p' constraints.txt)
installed=$(.venv/bin/python -m pip list --format=freeze | sed -nE 's/^mujoco(-core|-studio)?==//p' | sort -u)
if [ -n "$installed" ]; then
    if [ "$installed" != "$pinned" ] || ! .venv/bin/python -c 'from mujoco import MjModel' 2>/dev/null; then
        .venv/bin/python -m pip uninstall --quiet --yes mujoco mujoco-core mujoco-studio
    fi
fi
.venv/bin/python -m pip install --quiet --constraint constraints.txt --editable '.[dev,docs]'
.venv/bin/dima --version
