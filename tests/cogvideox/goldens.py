"""Golden files of CogVideoX: numbers of diffusers on small random weights, float32 on CPU.

`COGVIDEO_GOLDEN_X` names another folder of the same format; every size comes from a file's own config.
"""

import os
from pathlib import Path

import jax
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.convert.torch_names import from_torch, torch_name
from tests.parity.goldens import load as load_file

FOLDER = Path(os.environ.get("COGVIDEO_GOLDEN_X", Path(__file__).parent / "golden"))


def load(name: str) -> tuple[dict, dict[str, np.ndarray]]:
    """The config and all arrays of one file."""
    return load_file(FOLDER / f"{name}.npz")


def params_of(module: nn.Module, inputs: tuple, arrays: dict[str, np.ndarray], prefix: str = "param:", **options):
    """Parameters of a module from a file; every tensor must be used and every leaf be filled."""
    init = lambda rng: module.init(rng, *inputs, **options)["params"]  # noqa: E731
    abstract = nn.unbox(jax.eval_shape(init, jax.random.key(0)))
    given = {name.removeprefix(prefix): value for name, value in arrays.items() if name.startswith(prefix)}
    leaves = flatten_dict(abstract, sep="/")
    found = {path: from_torch(path, given.pop(torch_name(path)), leaf.shape) for path, leaf in leaves.items()}
    assert not given, f"tensors that no parameter takes: {sorted(given)}"
    return unflatten_dict(found, sep="/")
