#!/usr/bin/env bash
# Sets everything up in .venv and runs every check: ruff, mypy, pytest. Needs Debian or Ubuntu with Python 3.10+.
# Arguments go to pytest:  bash scripts/test.sh -k projection
set -euo pipefail
exec </dev/null
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source scripts/python_env.sh
export PIP_DISABLE_PIP_VERSION_CHECK=1

make_venv .venv
python=.venv/bin/python

# torch comes first and only as a CPU build: any other brings several GB of CUDA libraries. An index that has such builds
# is configured in pip (pip config set global.extra-index-url ...); without one, torch is left out.
torch_version=$(sed -n 's/^torch==//p' constraints.txt)
if ! "$python" -c 'import torch' 2>/dev/null; then
    if "$python" -m pip install -q -c constraints.txt "torch==$torch_version+cpu" 2>/dev/null; then
        echo "torch $torch_version (CPU) installed"
    else
        echo "torch is left out: pip finds no torch $torch_version+cpu for $("$python" --version); tests that need it are skipped"
    fi
fi
extras=offline,remote,fleet,speed,dev
if "$python" -c 'import torch' 2>/dev/null; then
    extras+=,train,ray,lora,flux
fi
"$python" -m pip install -q -c constraints.txt -e ".[$extras]"

echo "== ruff"
"$python" -m ruff check .
"$python" -m ruff format --check .
# NumPy describes its types differently in the last version for Python 3.10; the code is checked against the newer one.
if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))'; then
    echo "== mypy"
    "$python" -m mypy
else
    echo "== mypy is left out: it is run with Python 3.11 and newer"
fi

if ls /opt/ros/*/setup.bash >/dev/null 2>&1; then
    echo "== pytest -m ros"
    bash scripts/test_ros.sh
else
    echo "== ROS tests are skipped: there is no /opt/ros/*/setup.bash on this machine"
fi

echo "== pytest"
# A sourced ROS would put its packages, made for another environment, before those of this one.
env -u PYTHONPATH "$python" -m pytest -ra "$@"
