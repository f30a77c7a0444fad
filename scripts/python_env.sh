# Sourced by the other scripts: finds Python 3.10 or newer and makes a virtual environment with it.

# Prints a Python that is new enough; $PYTHON wins when it is set.
find_python() {
    local candidate
    for candidate in ${PYTHON:+"$PYTHON"} python3 python3.13 python3.12 python3.11 python3.10; do
        if "$candidate" -c 'import sys; sys.exit(sys.version_info < (3, 10))' 2>/dev/null; then
            command -v -- "$candidate"
            return 0
        fi
    done
    return 1
}

# apt_install PACKAGE...: installs system packages, or says which ones a person has to install.
apt_install() {
    if ! command -v apt-get >/dev/null; then
        echo "error: $* is missing and there is no apt-get here; install it with this system's package manager" >&2
        return 1
    fi
    if [ "$(id -u)" -ne 0 ]; then
        echo "error: $* is missing; run: sudo apt-get install $*" >&2
        return 1
    fi
    apt-get -q update && DEBIAN_FRONTEND=noninteractive apt-get -q install -y --no-install-recommends "$@"
}

# make_venv FOLDER [venv option...]: makes the environment when it is missing or broken.
make_venv() {
    local folder=$1 python
    shift
    if "$folder/bin/python" -m pip --version >/dev/null 2>&1; then
        return 0
    fi
    if ! find_python >/dev/null; then
        apt_install python3 python3-venv || return 1
    fi
    if ! python=$(find_python); then
        echo "error: no Python 3.10 or newer was found; install one, or name it: PYTHON=/path/to/python3 bash $0" >&2
        return 1
    fi
    if ! "$python" -c 'import ensurepip, venv' 2>/dev/null; then
        apt_install "$("$python" -c 'import sys; print("python%d.%d-venv" % sys.version_info[:2])')" || return 1
    fi
    echo "Making $folder with $("$python" --version) ($python)"
    "$python" -m venv --clear "$@" "$folder"
    echo '*' >"$folder/.gitignore"
}
