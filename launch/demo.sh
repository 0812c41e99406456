#!/usr/bin/env bash
# Makes the demo weights from scratch: draws the clips, trains the five parts, assembles them.
#   launch/demo.sh [FOLDER]
set -euo pipefail

OUT=${1:-cogvideo_jax/demo_weights}
export XLA_FLAGS=${XLA_FLAGS:---xla_force_host_platform_device_count=2} # two devices keep two cores busier

launch/local.sh configs/demo_tokenizer.py runs/tokenizer
cogvideo tokenize --source captioned_motion --tokenizer runs/tokenizer/weights.safetensors --out data/demo_tokens
launch/local.sh configs/demo_base.py runs/base
launch/local.sh configs/demo_stage1.py runs/stage1
launch/local.sh configs/demo_stage2.py runs/stage2
cogvideo tokenize --source captioned_motion --size 192 --coarse-size 64 --clips 2000 \
  --tokenizer runs/tokenizer/weights.safetensors --text-model data/demo_tokens/text.model --out data/demo_fine_tokens
launch/local.sh configs/demo_superres.py runs/superres
cogvideo assemble --out "$OUT" \
  --tokenizer runs/tokenizer/weights.safetensors --base runs/base/weights.safetensors \
  --stage1 runs/stage1/weights.safetensors --stage2 runs/stage2/weights.safetensors \
  --superres runs/superres/weights.safetensors --text-model data/demo_tokens/text.model --sampling-config configs/demo_pipeline.json
