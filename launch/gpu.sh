#!/usr/bin/env bash
# Trains one part on all GPUs of this machine, with the parameters split over them.
#   launch/gpu.sh [--dry-run] CONFIG WORKDIR [--config.KEY=VALUE ...]
set -euo pipefail

GPUS=${GPUS:-$(nvidia-smi --list-gpus 2>/dev/null | wc -l)}
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.95} # of each GPU's memory
export XLA_FLAGS=${XLA_FLAGS:---xla_gpu_enable_latency_hiding_scheduler=true}

exec "$(dirname "$0")/local.sh" "$@" --config.mesh.data=1 --config.mesh.fsdp="$GPUS" --config.mesh.tensor=1
