#!/usr/bin/env bash
# Checks style and types, then runs the tests; arguments go to pytest: scripts/test.sh -m fast
set -euo pipefail
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}" # threads that spin on shared cores stall each other
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
cd "$ROOT"
"$VENV/bin/python" -m ruff check
"$VENV/bin/python" -m ruff format --check
"$VENV/bin/python" -m mypy
exec "$VENV/bin/python" -m pytest "$@"
