"""What parts have of a base: its own parameters, and the values that added ones start from."""

from pathlib import Path

import numpy as np

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.config import from_dict as transformer_from_dict
from cogvideo_jax.models.cogvideo.superres.config import SuperResolutionConfig
from cogvideo_jax.runtime.safetensors_stream import read_leaf
from cogvideo_jax.runtime.weights import read_description
from cogvideo_jax.training.init_from import Origins, from_array, from_file


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
        origins[("extra_positions",)] = from_array(np.tile(rows, (copies, 1))[: config.extra_positions], file=path)
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
    origins[("extra_positions",)] = from_array(tiled.reshape(config.fine_tokens, -1), file=path)
    for layers, channel, name in [path for path in origins if path[:2] == ("layers", "spatial")]:
        origins[(layers, "local", name)] = origins[(layers, channel, name)]
    return origins


def _rows(path: str | Path, rows: slice) -> np.ndarray:
    """Rows of the base's position table. Raises UserError if it has none, or too few."""
    leaf = read_description(path)[0].get("position_table")
    if leaf is None or leaf.shape[0] < rows.stop:
        raise UserError(f"{path} does not fit this model: it has no positions {rows.start} to {rows.stop - 1}")
    return read_leaf(path, "position_table", rows)
