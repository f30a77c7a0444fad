#!/usr/bin/env bash
# From a fresh clone to a report: makes .venv, installs mf_ros, simulates a small bag and replays it.
# Needs Debian or Ubuntu with Python 3.10+; no ROS, no data.   bash scripts/demo.sh [FOLDER]
set -euo pipefail
exec </dev/null
out=$(realpath -m -- "${1:-$(dirname -- "${BASH_SOURCE[0]}")/../out/demo}")
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source scripts/python_env.sh
export PIP_DISABLE_PIP_VERSION_CHECK=1

make_venv .venv
echo "Installing mf_ros into .venv"
.venv/bin/python -m pip install -q -c constraints.txt '.[offline]'

mkdir -p -- "$out"
echo "Simulating a drive: $out/sim.mcap"
.venv/bin/mf-ros simulate --out "$out/sim.mcap" --seed 1 --seconds 3
echo "Replaying it"
.venv/bin/mf-ros replay "$out/sim.mcap" --out "$out/replay"

echo
echo "Report:  $out/replay/report.html   (open it in a browser)"
echo "Bag:     $out/replay/out.mcap      (open it in Foxglove, or: ros2 bag play)"
echo "Next:    $PWD/.venv/bin/mf-ros replay YOUR_BAG --out $out/mine"
