"""A LoRA of SAT -> `pytorch_lora_weights.safetensors`, which `cogvideo generate --lora` and diffusers read.

SAT adds B A / r, for its alpha is 1. The file says so in its header, so that nobody has to know.
"""

import json
from collections.abc import Iterable, Mapping
from pathlib import Path

import numpy as np

from cogvideo_jax.convert.checkpoint_files import Checkpoint
from cogvideo_jax.errors import ConversionError
from cogvideo_jax.models.cogvideox.convert.names import LORA_MATRICES, SAT_PREFIX, sat_lora_name
from cogvideo_jax.models.cogvideox.snapshot import LORA_PREFIX
from cogvideo_jax.nn.lora import FACTOR, METADATA, LoraFile, lora_of
from cogvideo_jax.runtime.files import require_free, require_space
from cogvideo_jax.runtime.safetensors_stream import Leaf, require_finite, write_stream

MARK = ".matrix_"  # in the names of a LoRA's tensors, and of no others
ALPHA = 1  # of SAT


def is_lora(leaves: Mapping[str, Leaf]) -> bool:
    """Whether tensors of a SAT file hold a LoRA, with the weights that it changes or without."""
    return any(MARK in name for name in leaves)


def write_lora(checkpoint: Checkpoint, target: Path, *, replace: bool) -> list[str]:
    """Writes the LoRA of a checkpoint; the weights beside it are left out. Returns notes.

    Raises:
      UserError: it has unknown names, or matrices of other shapes or of several ranks; or the target exists.
    """
    require_free(target, replace=replace)
    leaves = {name: leaf for name, leaf in checkpoint.leaves.items() if MARK in name}
    lora = _opened(checkpoint, leaves)
    ranks = sorted({leaves[pair.a].shape[0] for pair in lora.factors.values()})
    if len(ranks) > 1:
        raise ConversionError(f"{checkpoint.source} has matrices of the ranks {ranks}; expected one rank")
    sat = {
        f"{LORA_PREFIX}{name.removesuffix('.weight')}.lora_{factor}.weight": key
        for name, pair in lora.factors.items()
        for factor, key in zip("AB", pair)
    }

    def chunks(name: str) -> Iterable[np.ndarray]:
        yield require_finite(checkpoint.read(sat[name]), name=sat[name], path=checkpoint.source)

    written = {name: leaves[key] for name, key in sat.items()}
    require_space(target.parent, sum(leaf.nbytes for leaf in written.values()), f"writing {target}")
    write_stream(target, written, chunks=chunks, metadata=_metadata(ranks[0]), replace=replace)
    others = len(checkpoint.leaves) - len(leaves)
    return [f"left out {others} tensors of {checkpoint.source} that are not of the LoRA"] if others else []


def _opened(checkpoint: Checkpoint, leaves: Mapping[str, Leaf]) -> LoraFile:
    """The LoRA with its names, pairs and shapes checked: attention's matrices are square, and all of one size."""
    found = {key: FACTOR.fullmatch(sat_lora_name(key.removeprefix(SAT_PREFIX)) or "") for key in leaves}
    widths = [leaves[key].shape[1] for key, one in found.items() if one and one[2] == "A" and leaves[key].shape[1:]]
    shapes = {f"{one[1]}.weight": (max(widths, default=0),) * 2 for one in found.values() if one}
    named = dict(prefix=SAT_PREFIX, rename=sat_lora_name, source=checkpoint.source)
    return lora_of(leaves, checkpoint.read, shapes=shapes, scale=ALPHA, **named)


def _metadata(rank: int) -> dict[str, str]:
    modules = sorted({matrix.removeprefix("attn1.") for matrix in LORA_MATRICES.values()})
    settings = {"r": rank, "lora_alpha": ALPHA, "target_modules": modules}
    return {"format": "pt", METADATA: json.dumps({f"{LORA_PREFIX}{key}": value for key, value in settings.items()})}
