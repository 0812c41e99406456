#!/usr/bin/env bash
# Trains one part on this machine, with one process or with several that join like the hosts of a pod.
#   [PROCESSES=4] launch/local.sh [--dry-run] CONFIG WORKDIR [--config.KEY=VALUE ...]
set -euo pipefail

PROCESSES=${PROCESSES:-1}
PORT=${PORT:-12345} # on which the first process meets the others
DRY_RUN=0
[[ ${1:-} != --dry-run ]] || { DRY_RUN=1 && shift; }
USAGE="usage: launch/local.sh [--dry-run] CONFIG WORKDIR [--config.KEY=VALUE ...]"
CONFIG=${1:?$USAGE}
WORKDIR=${2:?$USAGE}
shift 2

run=("$(dirname "$0")/restart.sh" cogvideo train --config="$CONFIG" --workdir="$WORKDIR" "$@")
if ((PROCESSES == 1)); then
  ((DRY_RUN)) && echo "${run[@]}" && exit
  PAUSE=${PAUSE:-1} exec "${run[@]}"
fi

trap 'kill -TERM $(jobs -p) 2>/dev/null || true' INT TERM # all save at the same step
for ((id = 0; id < PROCESSES; id++)); do
  place=(JAX_COORDINATOR_ADDRESS="localhost:$PORT" JAX_NUM_PROCESSES="$PROCESSES" JAX_PROCESS_ID="$id")
  if ((DRY_RUN)); then
    echo "${place[@]}" "${run[@]}" --distributed
  else
    env "${place[@]}" "${run[@]}" --distributed &
  fi
done
status=0
for job in $(jobs -p); do
  while kill -0 "$job" 2>/dev/null; do wait "$job" || status=$?; done
done
exit "$status"
