"""What training starts from: fresh parameters, under them the weights of a base, over them those of an earlier stage.

Every array is born where it stays: fresh ones are drawn on the devices that hold them, and of a file each process reads
only the slices of its own devices.
"""

from collections.abc import Callable
from pathlib import Path

import flax.linen as nn
import jax
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.config import from_dict as transformer_from_dict
from cogvideo_jax.models.cogvideo.superres.config import SuperResolutionConfig
from cogvideo_jax.models.cogvideo.transformer.transformer import Backbone
from cogvideo_jax.notation import Array, Key, PyTree
from cogvideo_jax.runtime.safetensors_stream import Leaf, read_leaf
from cogvideo_jax.runtime.weights import read_description

# Path of a leaf -> what makes it, given its shape, type and sharding.
Origins = dict[tuple[str, ...], Callable[[jax.ShapeDtypeStruct], Array]]


def abstract_params(model: Backbone) -> PyTree:
    """Shapes of all parameters, with their logical axes."""
    return jax.eval_shape(lambda rng: model.init(rng, *model.empty_inputs()), jax.random.key(0))["params"]


def fresh_params(model: Backbone, rng: Key[Array, ""], like: PyTree) -> PyTree:
    """Fresh values of the leaves that `like` has (some or all of the model's), with its shardings."""
    wanted = flatten_dict(like)

    def init(rng):
        flat = flatten_dict(nn.meta.unbox(model.init(rng, *model.empty_inputs())["params"]))
        return unflatten_dict({path: flat[path] for path in wanted})

    return jax.jit(init, out_shardings=jax.tree.map(lambda leaf: leaf.sharding, like))(rng)


def read_params(like: PyTree, origins: Origins) -> PyTree:
    """All leaves of `like`, from where they come.

    Raises:
      UserError: a leaf that comes from nowhere.
    """
    flat = flatten_dict(like)
    missing = ["/".join(path) for path in flat if path not in origins]
    if missing:
        raise UserError(f"the base does not fit this model: it lacks {missing[0]} and {len(missing) - 1} more")
    return unflatten_dict({path: origins[path](leaf) for path, leaf in flat.items()})


def from_file(path: str | Path) -> Origins:
    """The leaves of a weights file, by their own paths. Raises UserError if it is missing or damaged."""
    leaves, _ = read_description(path)
    return {tuple(name.split("/")): _slices_of(path, name, leaf) for name, leaf in leaves.items()}


def from_base(path: str | Path, config: TransformerConfig) -> Origins:
    """What a transformer has of a base (paper section 3.2; SPEC: mode "finetune").

    Temporal q, k, v start as the base's, extra positions as its first-frame positions repeated. The temporal output
    matrix is not among them: it stays random, and alpha 0, so that both channels start with weight one half.
    """
    origins = from_file(path)
    if config.temporal:
        start, n = config.first_frame_position, config.layout.frame_tokens
        copies = -(-config.extra_positions // n)
        rows = _rows(path, slice(start, start + n))
        origins[("extra_positions",)] = _pieces_of(np.tile(rows, (copies, 1))[: config.extra_positions])
        for name in ("qkv_kernel", "qkv_bias"):
            origins[("layers", "temporal", name)] = origins[("layers", "spatial", name)]
    return origins


def from_base_tiled(path: str | Path, config: SuperResolutionConfig) -> Origins:
    """What super-resolution has of a base (CogView2: both halves start as the base).

    The local channel starts as the base's attention; fine positions as the base's positions of one picture, the whole
    picture repeated (2022 code), not enlarged:

        a b    ->    a b a b
        c d          c d c d
                     a b a b
                     c d c d
    """
    origins, description = from_file(path), read_description(path)[1]
    base = transformer_from_dict(description.get("config"))
    grid, start = base.layout.grid, base.first_frame_position
    rows = _rows(path, slice(start, start + grid * grid)).reshape(grid, grid, -1)
    copies = -(-config.fine_grid // grid)
    tiled = np.tile(rows, (copies, copies, 1))[: config.fine_grid, : config.fine_grid]
    origins[("extra_positions",)] = _pieces_of(tiled.reshape(config.fine_tokens, -1))
    for layers, channel, name in [path for path in origins if path[:2] == ("layers", "spatial")]:
        origins[(layers, "local", name)] = origins[(layers, channel, name)]
    return origins


def _rows(path: str | Path, rows: slice) -> np.ndarray:
    """Rows of the base's position table. Raises UserError if it has none, or too few."""
    leaf = read_description(path)[0].get("position_table")
    if leaf is None or leaf.shape[0] < rows.stop:
        raise UserError(f"{path} does not fit this model: it has no positions {rows.start} to {rows.stop - 1}")
    return read_leaf(path, "position_table", rows)


def _slices_of(path: str | Path, name: str, leaf: Leaf) -> Callable[[jax.ShapeDtypeStruct], Array]:
    def place(like):
        if leaf.shape != like.shape:
            raise UserError(f"{path} does not fit this model: its {name} is {list(leaf.shape)}, not {list(like.shape)}")
        return jax.make_array_from_callback(
            like.shape, like.sharding, lambda index: read_leaf(path, name, index).astype(like.dtype)
        )

    return place


def _pieces_of(whole: np.ndarray) -> Callable[[jax.ShapeDtypeStruct], Array]:
    def place(like):
        return jax.make_array_from_callback(like.shape, like.sharding, lambda index: whole[index].astype(like.dtype))

    return place
