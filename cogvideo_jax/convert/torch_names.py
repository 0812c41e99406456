"""Names and layouts of parameters: ours, as paths in a Flax tree, and those of a torch state dict.

| ours                              | torch                             | layout                             |
|-----------------------------------|-----------------------------------|------------------------------------|
| blocks_3/attn/to_q/kernel         | blocks.3.attn.to_q.weight         | [in, out] <-> [out, in]            |
| down_blocks_0/conv/kernel         | down_blocks.0.conv.weight         | [t, h, w, in, out] <-> [out, in, t, h, w] |
| norm/scale, table/embedding, bias | norm.weight, table.weight, bias   | the same                           |

A convolution whose kernel is its stride, or one pixel, is a linear map here: [out, in, t, h, w] <-> [in*t*h*w, out].
"""

import math
import re

import numpy as np

from cogvideo_jax.notation import Array

# Modules of which torch keeps a list: resnets_1 here is resnets.1 there, but linear_1 is linear_1.
_MODELS = "transformer_blocks down_blocks up_blocks resnets downsamplers upsamplers attentions to_out net"
LISTS = [*_MODELS.split(), "block", "layer"]
NUMBERED = re.compile(rf"\b({'|'.join(LISTS)})_(\d+)(?=/)")
LEAVES = {"kernel": "weight", "scale": "weight", "embedding": "weight"}


def torch_name(path: str) -> str:
    """Name in a state dict of the leaf at a path of ours."""
    module, _, leaf = NUMBERED.sub(r"\1.\2", path).rpartition("/")
    return f"{module}/{LEAVES.get(leaf, leaf)}".lstrip("/").replace("/", ".")


def from_torch(path: str, array: Array, shape: tuple[int, ...]) -> Array:
    """A tensor of a state dict in the layout of our leaf.

    Raises:
      ValueError: the tensor has another shape than our leaf needs.
    """
    if path.endswith("/kernel"):
        if len(shape) == 2 and array.ndim > 2:
            array = array.reshape(len(array), -1)
        array = np.moveaxis(array, (0, 1), (-1, -2))
    if array.shape != tuple(shape):
        raise ValueError(f"{torch_name(path)}: expected {list(shape)}, got {list(array.shape)} in our layout")
    return array


def to_torch(path: str, array: Array, shape: tuple[int, ...]) -> Array:
    """Our leaf in the layout of a state dict, whose tensor has this shape."""
    if path.endswith("/kernel"):
        array = np.moveaxis(array, (-1, -2), (0, 1))
    if array.size != math.prod(shape):
        raise ValueError(f"{torch_name(path)}: expected {list(shape)}, got {list(array.shape)}")
    return array.reshape(shape)
