#!/usr/bin/env bash
# Trains one part on this machine and starts it again after a crash; a run goes on from its newest checkpoint.
#   launch/local.sh configs/demo_base.py runs/base [--config.KEY=VALUE ...]
set -euo pipefail

RESTARTS=${RESTARTS:-3}
CONFIG=${1:?usage: launch/local.sh CONFIG WORKDIR [--config.KEY=VALUE ...]}
WORKDIR=${2:?usage: launch/local.sh CONFIG WORKDIR [--config.KEY=VALUE ...]}
shift 2

for ((try = 0; try <= RESTARTS; try++)); do
  status=0
  cogvideo train --config="$CONFIG" --workdir="$WORKDIR" "$@" || status=$?
  case $status in
    0 | 2 | 130) exit "$status" ;; # done, wrong input, stopped by hand
  esac
  echo "launch/local.sh: exit code $status, restart $((try + 1)) of $RESTARTS" >&2
done
exit "$status"
