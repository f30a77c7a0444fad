#!/usr/bin/env bash
# Builds the package for ROS 2 and runs the tests marked 'ros'; fails when there is none. Needs a ROS 2 in /opt/ros.
# Arguments go to pytest:  bash scripts/test_ros.sh -k launch
set -euo pipefail
exec </dev/null
cd -- "$(dirname -- "${BASH_SOURCE[0]}")/.."
source scripts/python_env.sh
export PIP_DISABLE_PIP_VERSION_CHECK=1

# The setup files of ROS use variables that are not set.
source_setup() {
    set +u
    source "$1"
    set -u
}

if [ -z "${ROS_DISTRO:-}" ]; then
    ros_setup=$(ls -1 /opt/ros/*/setup.bash 2>/dev/null | tail -n 1 || true)
    if [ -z "$ros_setup" ]; then
        echo "error: no ROS 2 is sourced and there is no /opt/ros/*/setup.bash on this machine" >&2
        exit 1
    fi
    source_setup "$ros_setup"
fi
echo "== ROS 2 $ROS_DISTRO"

# An environment that sees rclpy. Its NumPy has the first number of the system's, for which the packages of ROS were
# built.
PYTHON=/usr/bin/python3 make_venv .venv-ros --system-site-packages
python=$PWD/.venv-ros/bin/python
numpy="numpy<$(/usr/bin/python3 -c 'import numpy; print(int(numpy.__version__.split(".")[0]) + 1)' 2>/dev/null || echo 2)"
extras=bags,onnx
"$python" -c 'import cv2' 2>/dev/null || extras+=,cv
"$python" -m pip install -q "$numpy" 'pytest>=7' 'hypothesis>=6' -e ".[$extras]"

# Launch files and `ros2 run` need an installed package: colcon's, or pip's where there is no colcon.
if command -v colcon >/dev/null; then
    colcon --log-base build/ros/log build --base-paths . --build-base build/ros --install-base build/ros/install \
        --event-handlers console_cohesion-
    source_setup build/ros/install/local_setup.bash
else
    "$python" -m pip install -q --no-deps .
    export AMENT_PREFIX_PATH=$PWD/.venv-ros:$AMENT_PREFIX_PATH
fi
export PATH=$PWD/.venv-ros/bin:$PATH VIRTUAL_ENV=$PWD/.venv-ros

# Without rclpy the tests would be skipped. pytest says 5 when it collected nothing, which is a failure here.
"$python" -c 'import rclpy'
"$python" -m pytest -m ros -ra "$@"
