#!/usr/bin/env bash
# Runs a command and restarts it after a crash; `cogvideo train` continues from its newest checkpoint.
#   launch/restart.sh cogvideo train --config=configs/demo_base.py --workdir=runs/base
set -euo pipefail

RESTARTS=${RESTARTS:-10}
PAUSE=${PAUSE:-30} # seconds before a restart; when one of several hosts dies, the others stop within 20

stopped=0
trap 'stopped=1; kill -TERM "$child" 2>/dev/null || true' INT TERM # the run saves and exits
for ((try = 0; ; try++)); do
  "$@" &
  child=$!
  status=0
  wait "$child" || status=$?
  while kill -0 "$child" 2>/dev/null; do # a signal ends `wait`, not the run
    status=0
    wait "$child" || status=$?
  done
  case $status in
    0 | 2 | 130) exit "$status" ;; # finished, wrong input, stopped by hand
  esac
  ((stopped == 0 && try < RESTARTS)) || exit "$status"
  echo "launch/restart.sh: exit code $status, new start $((try + 1)) of $RESTARTS in $PAUSE s" >&2
  sleep "$PAUSE"
done
