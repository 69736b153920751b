#!/usr/bin/env bash
# Trains the embedded default offline, start to finish; arguments go to reprogram-train: scripts/quickstart.sh seed=1
set -euo pipefail
export OMP_WAIT_POLICY="${OMP_WAIT_POLICY:-PASSIVE}" # threads that spin on shared cores stall each other
source "$(dirname "${BASH_SOURCE[0]}")/environment.sh"
exec "$VENV/bin/reprogram-train" "$@"
