"""VQTokenizer: frames <-> image ids. Other modules use the networks and the code book only through it."""

import dataclasses
import functools
import hashlib
import json
import math
from pathlib import Path

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict

from cogvideo_jax.convert.check import check_leaves
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.descriptions import read_part
from cogvideo_jax.models.cogvideo.vq.codebook import Codebook, look_up, nearest_code
from cogvideo_jax.models.cogvideo.vq.config import VQConfig
from cogvideo_jax.models.cogvideo.vq.networks import VQNetworks, abstract_networks, normalise, to_unit_range
from cogvideo_jax.notation import Array, Float, Int, UInt8
from cogvideo_jax.runtime.weights import load_weights


@functools.partial(jax.jit, static_argnames=("config", "rate"))
def _encode(params: dict, frames: Array, *, config: VQConfig, rate: int) -> Int[Array, "B N"]:
    variables = {"params": params["networks"]}
    latents = VQNetworks(config).apply(variables, normalise(frames, config), rate=rate, method="encode")
    return nearest_code(latents, params["codebook"].vectors).reshape(frames.shape[0], -1)


@functools.partial(jax.jit, static_argnames=("config", "rate"))
def _decode(params: dict, ids: Array, *, config: VQConfig, rate: int) -> Float[Array, "B H W 3"]:
    side = math.isqrt(ids.shape[1])
    vectors = look_up(ids.reshape(-1, side, side), params["codebook"].vectors)
    images = VQNetworks(config).apply({"params": params["networks"]}, vectors, rate=rate, method="decode")
    return to_unit_range(images, config)


class VQTokenizer:
    """Trained image tokenizer.

    Args:
      config: sizes.
      params: {"networks": parameters of VQNetworks, "codebook": Codebook}.
    """

    def __init__(self, config: VQConfig, params: dict):
        shape = (config.codebook_size, config.code_width)
        if params["codebook"].vectors.shape != shape:
            raise UserError(f"code book must have shape {shape}, got {params['codebook'].vectors.shape}")
        self.config = config
        self.params = params

    @functools.cached_property
    def fingerprint(self) -> str:
        """16 hex digits that change with the config, the networks or the codes (not their statistics)."""
        digest = hashlib.sha256(json.dumps(dataclasses.asdict(self.config), sort_keys=True).encode())
        weights = {"networks": self.params["networks"], "codes": self.params["codebook"].vectors}
        for path, leaf in jax.tree_util.tree_leaves_with_path(weights):
            digest.update(f"{jax.tree_util.keystr(path)} {leaf.shape} {leaf.dtype}".encode())
            digest.update(np.ascontiguousarray(leaf).tobytes())
        return digest.hexdigest()[:16]

    def tokens_per_frame(self, side: int, rate: int | None = None) -> int:
        """Number of tokens N of a square frame with sides of `side` pixels."""
        rate = self._rate(rate)
        if side % rate:
            raise UserError(f"frame side {side} is not divisible by the rate {rate}")
        return (side // rate) ** 2

    def encode(self, frames: UInt8[Array, "B H W 3"], rate: int | None = None) -> Int[Array, "B N"]:
        """Square uint8 frames -> ids in 0..C-1, in row-major order."""
        rate = self._rate(rate)
        if frames.ndim != 4 or frames.shape[3] != 3 or frames.dtype != np.uint8:
            raise UserError(f"frames must be uint8 of shape [B, H, W, 3], got {frames.dtype} {frames.shape}")
        if frames.shape[1] != frames.shape[2]:
            raise UserError(f"frames must be square, got {frames.shape[1]}x{frames.shape[2]}")
        self.tokens_per_frame(frames.shape[1], rate)
        return _encode(self.params, frames, config=self.config, rate=rate)

    def decode_float(self, ids: Int[Array, "B N"], rate: int | None = None) -> Float[Array, "B H W 3"]:
        """Ids of square grids -> float32 images around 0..1, not clipped."""
        rate = self._rate(rate)
        if ids.ndim != 2 or math.isqrt(ids.shape[1]) ** 2 != ids.shape[1] or not ids.size:
            raise UserError(f"ids must have shape [B, N] with N a square number, got {ids.shape}")
        if not jnp.issubdtype(ids.dtype, jnp.integer):
            raise UserError(f"ids must be integers, got {ids.dtype}")
        low, high = int(ids.min()), int(ids.max())
        if low < 0 or high >= self.config.codebook_size:
            raise UserError(f"image ids must be in 0..{self.config.codebook_size - 1}, got {low}..{high}")
        return _decode(self.params, ids, config=self.config, rate=rate)

    def decode(self, ids: Int[Array, "B N"], rate: int | None = None) -> UInt8[np.ndarray, "B H W 3"]:
        """Ids of square grids -> frames in 0..255, rounded and clipped."""
        pixels = np.asarray(self.decode_float(ids, rate)) * 255.0
        return np.rint(pixels).clip(0, 255).astype(np.uint8)

    def lower_decode(self, rows: int, tokens: int) -> jax.stages.Lowered:
        """Lowered program of `decode` for ids of this shape."""
        ids = jax.ShapeDtypeStruct((rows, tokens), jnp.int32)
        return _decode.lower(self.params, ids, config=self.config, rate=self._rate(None))

    def lower_encode(self, rows: int, side: int) -> jax.stages.Lowered:
        """Lowered program of `encode` for frames of this shape."""
        frames = jax.ShapeDtypeStruct((rows, side, side, 3), jnp.uint8)
        return _encode.lower(self.params, frames, config=self.config, rate=self._rate(None))

    def _rate(self, rate: int | None) -> int:
        rate = self.config.default_rate if rate is None else rate
        if rate not in self.config.rates:
            raise UserError(f"rate must be one of {self.config.rates}, got {rate}")
        return rate


def load_tokenizer(path: str | Path) -> VQTokenizer:
    """Reads the weights of a tokenizer trained by `cogvideo train`.

    Raises:
      UserError: the file is missing or damaged, or has another part.
    """
    if not Path(path).exists():
        raise UserError(f"weights {path} do not exist; train them or pass another folder")
    leaves, description = read_part(path, "tokenizer")
    check_leaves(leaves, expected_shapes(description.config), source=path)
    tree = jax.device_put(load_weights(path)[0])
    params = {"networks": tree["networks"], "codebook": Codebook(**tree["codebook"])}
    return VQTokenizer(description.config, params)


def expected_shapes(config: VQConfig) -> dict[str, tuple[int, ...]]:
    """Shapes of all leaves of a weights file, by path "a/b/c"."""
    codes = (config.codebook_size, config.code_width)
    codebook = {"vectors": codes, "cluster_size": codes[:1], "embed_avg": codes}
    networks = flatten_dict(nn.meta.unbox(abstract_networks(config)), sep="/")
    return {f"codebook/{name}": shape for name, shape in codebook.items()} | {
        f"networks/{name}": leaf.shape for name, leaf in networks.items()
    }
