#!/usr/bin/env bash
# One run by several processes: all GPUs of this machine, or, with the same line on each of them, several machines.
#
#   scripts/torchrun.sh trainer=ddp run_dir=runs/NAME experiment=...
#   NODES=2 RENDEZVOUS=HOST:29400 JOB=NAME scripts/torchrun.sh trainer=ddp run_dir=/shared/runs/NAME experiment=...
#
# PROCESSES  of each machine; default: one for each GPU
# NODES      machines, or fewest:most, such as 1:4
# RENDEZVOUS where they meet: one of them, and a free port of it; JOB: a name that is the same on all
# RESTARTS   how often torchrun starts all processes again, from the last checkpoint, when one has died
#
# A SIGTERM ends the run after a step with exit code 75; the same line continues it.
set -euo pipefail

arguments=(--nproc-per-node="${PROCESSES:-gpu}" --max-restarts="${RESTARTS:-3}")
if [[ -n "${RENDEZVOUS:-}" ]]; then
    arguments+=(--nnodes="${NODES:-1}" --rdzv-backend=c10d --rdzv-endpoint="$RENDEZVOUS")
    arguments+=(--rdzv-id="${JOB:?set JOB to a name that is the same on all machines}")
else
    arguments+=(--standalone)
fi

# PyTorch 2.11 lets processes that are started again find the addresses of those before (pytorch/pytorch#135712)
export TORCH_DISABLE_SHARE_RDZV_TCP_STORE=1
"${PYTHON:-python3}" -m torch.distributed.run "${arguments[@]}" -m reprogram.commands.train "$@" &
agent=$!
asked=
trap 'asked=yes; kill -TERM "$agent"' TERM
code=0
wait "$agent" || code=$?
while kill -0 "$agent" 2>/dev/null; do # a signal ended the wait
    code=0
    wait "$agent" || code=$?
done
[[ -z "$asked" || "$code" == 0 ]] || code=75 # torchrun has a code of its own
exit "$code"
