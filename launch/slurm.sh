#!/usr/bin/env bash
# Trains one part on nodes with GPUs under Slurm, one process per node. All nodes must see WORKDIR, data and weights.
#   sbatch --nodes=4 launch/slurm.sh [--dry-run] CONFIG WORKDIR [--config.KEY=VALUE ...]
#SBATCH --job-name=cogvideo
#SBATCH --ntasks-per-node=1
#SBATCH --gpus-per-node=8
#SBATCH --cpus-per-task=32
#SBATCH --signal=TERM@120
set -euo pipefail

VENV=${VENV:-$PWD/.venv} # with the package and its extras [train,gpu]
DRY_RUN=0
[[ ${1:-} != --dry-run ]] || { DRY_RUN=1 && shift; }
USAGE="usage: sbatch launch/slurm.sh [--dry-run] CONFIG WORKDIR [--config.KEY=VALUE ...]"
CONFIG=${1:?$USAGE}
WORKDIR=${2:?$USAGE}
shift 2

export PATH=$VENV/bin:$PATH
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.95}
run=(srun --kill-on-bad-exit=0 launch/restart.sh cogvideo train --distributed --config="$CONFIG" --workdir="$WORKDIR" "$@")
if ((DRY_RUN)); then
  echo "${run[@]}"
else
  exec "${run[@]}"
fi
