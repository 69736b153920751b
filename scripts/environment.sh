# shellcheck shell=bash
# Sourced by the scripts beside it: makes sure that the virtual environment $VENV holds this checkout and all it needs.
#
# $VENV is .venv in the checkout, or the folder that REPROGRAM_VENV names. A stamp in it, written last, tells what it
# was made from, so an environment that is up to date costs a fraction of a second. A set-up that was killed leaves the
# file .incomplete: what stands there is not trusted, and the next one starts anew (downloads stay in pip's cache).

ROOT="$(cd "$(dirname "${BASH_SOURCE[0]}")/.." && pwd)"
VENV="${REPROGRAM_VENV:-$ROOT/.venv}"
[[ "$VENV" == /* ]] || VENV="$PWD/$VENV"

environment_fail() {
    printf '\nset-up: %s\n' "$1" >&2
    exit 1
}

# What the environment depends on, as a hash: the Python, where things lie (installed commands hold absolute paths),
# the pins, and of pyproject.toml only what an installer reads.
environment_fingerprint() {
    "$VENV/bin/python" -I -S - "$ROOT" "$VENV" <<'PYTHON'
import hashlib, sys, tomllib
from pathlib import Path
root, venv = sys.argv[1:]
pyproject = tomllib.loads(Path(root, "pyproject.toml").read_text("utf-8"))
parts = (sys.version, root, venv, pyproject["build-system"], pyproject["project"], pyproject["tool"]["hatch"],
         Path(root, "constraints.txt").read_text("utf-8"))
print(hashlib.sha256(repr(parts).encode()).hexdigest())
PYTHON
}

environment_is_ready() {
    local found
    [[ -f "$VENV/.stamp" && -x "$VENV/bin/python" && ! -e "$VENV/.incomplete" ]] &&
        found="$(environment_fingerprint 2>/dev/null)" && [[ "$found" == "$(<"$VENV/.stamp")" ]]
}

environment_is_recent_python() {
    "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' >/dev/null 2>&1
}

# Whether packages can be installed into what stands there.
environment_is_usable() {
    [[ ! -e "$VENV/.incomplete" ]] && environment_is_recent_python "$VENV/bin/python" &&
        "$VENV/bin/python" -m pip --version >/dev/null 2>&1
}

environment_find_python() {
    for PYTHON in python3 python3.14 python3.13 python3.12 python3.11; do
        ! environment_is_recent_python "$PYTHON" || return 0
    done
    environment_fail "expected Python 3.11 or newer, got $(python3 --version 2>&1 || true); \
install one so that python3 or python3.11 is on the PATH, and run the same command again."
}

# One set-up at a time. The system lets go of the lock when its last holder ends, however it ends.
environment_lock() {
    mkdir -p "$(dirname "$VENV")"
    exec 9>"$VENV.lock"
    "$PYTHON" - <<'PYTHON'
import fcntl
try:
    fcntl.flock(9, fcntl.LOCK_EX | fcntl.LOCK_NB)
except BlockingIOError:
    print("set-up: waiting for another one to finish", flush=True)
    fcntl.flock(9, fcntl.LOCK_EX)
PYTHON
}

environment_create() {
    if [[ -d "$VENV" && ! -f "$VENV/pyvenv.cfg" && -n "$(ls -A "$VENV")" ]]; then
        environment_fail "expected $VENV to be a virtual environment, new or empty, got something else; \
move it away, or name another folder in REPROGRAM_VENV."
    fi
    echo "set-up: making a virtual environment in $VENV with $("$PYTHON" --version)"
    "$PYTHON" -m venv --clear "$VENV" || environment_fail "$PYTHON could not make a virtual environment (see above); \
on Debian and Ubuntu it needs: apt install python3-venv."
}

environment_install() {
    echo "set-up: installing packages; the first time it is about 6 GB with the CUDA libraries and takes some minutes"
    touch "$VENV/.incomplete"
    trap 'exit 130' INT # pip exits normally on Ctrl-C; without this the half-made state would pass for pip's own refusal
    if ! "$VENV/bin/python" -m pip install --disable-pip-version-check \
        --constraint "$ROOT/constraints.txt" --editable "$ROOT[dev]"; then
        rm "$VENV/.incomplete" # pip refused before it changed anything, so the next set-up goes on from here
        environment_fail "pip could not install the packages (see above). Is there a network, which only this step needs, \
and room on the disk ($(df -Ph "$VENV" | awk 'NR == 2 { print $4 }') are free)? Then run the same command again."
    fi
    environment_fingerprint >"$VENV/.stamp"
    rm "$VENV/.incomplete"
    trap - INT
    echo "set-up: done"
}

if ! environment_is_ready; then
    environment_find_python
    environment_lock
    if ! environment_is_ready; then # another set-up may have finished while this one waited
        if ! environment_is_usable; then
            environment_create
        fi
        environment_install
    fi
    exec 9>&-
fi
