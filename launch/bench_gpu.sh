#!/usr/bin/env bash
# Measures one GPU with random weights of the release's size: tables on the screen, JSON in OUT. Settings that do not
# fit are named and skipped.
#   launch/bench_gpu.sh [--dry-run] OUT [NAME ...]      by default all of the names below
set -euo pipefail

COGVIDEO=${COGVIDEO:-cogvideo}
export XLA_PYTHON_CLIENT_MEM_FRACTION=${XLA_PYTHON_CLIENT_MEM_FRACTION:-0.95}

dry_run=
if [[ ${1-} == --dry-run ]]; then
  dry_run=1
  shift
fi
out=${1:?"usage: launch/bench_gpu.sh [--dry-run] OUT [NAME ...]"}
wanted=("${@:2}")

full=(--size full --dtype bfloat16)
measure() { # NAME ARGUMENTS OF cogvideo bench
  local name=$1 && shift
  if ((${#wanted[@]})) && [[ " ${wanted[*]} " != *" $name "* ]]; then return; fi
  echo "$name: $COGVIDEO bench $* ${full[*]} --out $out/$name.json"
  if [[ -z $dry_run ]]; then
    $COGVIDEO bench "$@" "${full[@]}" --out "$out/$name.json" || echo "$name: exit code $?"
  fi
}
[[ -n $dry_run ]] || mkdir -p "$out"
measure stage1 decode --stage stage1 --batch 1 4 8
measure stage1_growing decode --stage stage1 --batch 1 4 8 --growing-cache
measure stage2 decode --stage stage2 --batch 1 4 8 --guidance no
measure stage1_int8 decode --stage stage1 --batch 1 4 8 --int8 weights cache
measure train1 train --stage stage1 --batch 1 2 4 --remat everything
measure train2 train --stage stage2 --batch 1 2 4 --remat everything
measure pipeline pipeline
measure pipeline_int8 pipeline --int8 weights cache
measure superres superres --batch 1 4 12
full=(--dtype bfloat16)
for size in 2b 5b; do measure $size --family cogvideox diffusion --size $size; done
for size in 2b 5b; do measure ${size}_clip --family cogvideox pipeline --size $size; done
for size in 2b 5b; do measure ${size}_int8 --family cogvideox pipeline --size $size --int8 weights; done
