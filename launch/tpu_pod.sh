#!/usr/bin/env bash
# Trains one part on all hosts of a Cloud TPU slice: copies this checkout there, installs it, and starts it.
# All hosts must see WORKDIR, data and weights (a Filestore share, or a bucket mounted by gcsfuse).
#   NAME=my-pod ZONE=us-central1-a launch/tpu_pod.sh [--dry-run] CONFIG WORKDIR [--config.KEY=VALUE ...]
set -euo pipefail

NAME=${NAME:?name of the TPU VM} # made by: gcloud compute tpus tpu-vm create NAME --accelerator-type=v5litepod-256 ...
ZONE=${ZONE:?its zone}
SESSION=${SESSION:-cogvideo} # of tmux on every host; `tmux attach -t cogvideo` there shows the run
DRY_RUN=0
[[ ${1:-} != --dry-run ]] || { DRY_RUN=1 && shift; }
USAGE="usage: launch/tpu_pod.sh [--dry-run] CONFIG WORKDIR [--config.KEY=VALUE ...]"
CONFIG=${1:?$USAGE}
WORKDIR=${2:?$USAGE}
shift 2

run() { if ((DRY_RUN)); then printf '%q ' "$@" && echo; else "$@"; fi; }
everywhere() { run gcloud compute tpus tpu-vm ssh "$NAME" --zone="$ZONE" --worker=all --command="$1"; }

train="launch/restart.sh cogvideo train --distributed --config=$CONFIG --workdir=$WORKDIR $*"
run git archive --output=/tmp/cogvideo_jax.tar.gz HEAD
run gcloud compute tpus tpu-vm scp /tmp/cogvideo_jax.tar.gz "$NAME:" --zone="$ZONE" --worker=all
everywhere "mkdir -p cogvideo_jax && tar xzf cogvideo_jax.tar.gz -C cogvideo_jax && python3 -m venv venv && venv/bin/pip install -q './cogvideo_jax[train,tpu]'"
everywhere "cd cogvideo_jax && PATH=\$HOME/venv/bin:\$PATH tmux new -d -s $SESSION \"$train 2>&1 | tee -a \$HOME/$SESSION.log\""
