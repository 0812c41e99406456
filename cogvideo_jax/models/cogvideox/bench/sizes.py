"""Models with random weights to measure: those of the first release, and one for CPUs."""

import dataclasses
import functools
from collections.abc import Callable
from typing import Any, NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.convert.torch_part import Storage
from cogvideo_jax.diffusion.schedules import Schedule
from cogvideo_jax.models.cogvideox.config import FIVE_B, LATER, TWO_B, TransformerConfig
from cogvideo_jax.models.cogvideox.snapshot import FROM_TEXT, Snapshot, storage_of
from cogvideo_jax.models.cogvideox.transformer import Transformer
from cogvideo_jax.models.cogvideox.vae import Vae
from cogvideo_jax.models.cogvideox.vae_config import VaeConfig
from cogvideo_jax.nn.attention import kernel_for
from cogvideo_jax.nn.t5 import T5Config, T5Encoder
from cogvideo_jax.notation import Array, Int, PyTree
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.runtime.memory import tree_bytes


class Size(NamedTuple):
    """Sizes of all parts of a model."""

    transformer: TransformerConfig
    vae: VaeConfig = VaeConfig()
    text: T5Config = T5Config()


MIDDLE = dataclasses.replace(FIVE_B, num_attention_heads=8, num_layers=8, sample_height=30, sample_width=44)
NARROW = dataclasses.replace(VaeConfig(), block_out_channels=(32, 64, 64, 128), sample_height=240, sample_width=320)
SIZES = {
    "middle": Size(MIDDLE, NARROW, T5Config(num_layers=2)),
    "2b": Size(TWO_B),
    "5b": Size(FIVE_B),
    "1.5-5b": Size(LATER),
}


class NoText:
    """In place of a tokenizer: every prompt is pads."""

    def padded(self, prompts: tuple[str, ...], length: int) -> Int[np.ndarray, "B S"]:
        """Ids of prompts."""
        return np.zeros((len(prompts), length), np.int32)

    def cut(self, prompt: str, length: int) -> int:
        """Tokens that are lost."""
        return 0


class RandomPart:
    """Random parameters in place of a file's; see `TorchPart`."""

    def __init__(self, init: Callable[[jax.Array], PyTree], storage: Storage):
        boxed = jax.eval_shape(lambda: init(jax.random.key(0)))  # nothing is compiled
        mesh = jax.sharding.get_mesh()
        where = {} if mesh.empty else flatten_dict(meshes.shardings(boxed, mesh), sep="/")
        found: dict[str, jax.ShapeDtypeStruct] = {}
        for path, leaf in flatten_dict(nn.meta.unbox(boxed), sep="/").items():
            for own, x in jax.eval_shape(functools.partial(storage.replace, path), leaf).items():
                dtype = x.dtype if x.dtype == jnp.int8 else storage.dtype if x.ndim > 1 else jnp.float32
                sharding = storage.sharding(own, where[path]) if where else None
                found[own] = jax.ShapeDtypeStruct(x.shape, dtype, sharding=sharding)
        self.abstract = unflatten_dict(found, sep="/")
        self.nbytes, self.largest = tree_bytes(self.abstract), 0

    def load(self, changed: Any = None) -> PyTree:
        """Small random numbers, a leaf at a time."""
        leaves, structure = jax.tree.flatten(self.abstract)
        keys = jax.random.split(jax.random.key(0), len(leaves))
        return structure.unflatten([_random(key, leaf) for key, leaf in zip(keys, leaves)])


def _random(key: Array, leaf: jax.ShapeDtypeStruct) -> jax.Array:
    """Of one in thousands, so that a deep model stays finite."""

    def make(key: Array) -> jax.Array:
        if leaf.dtype == jnp.int8:
            return jnp.ones(leaf.shape, leaf.dtype)
        return 0.02 * jax.random.normal(key, leaf.shape, leaf.dtype)

    return jax.jit(make, out_shardings=leaf.sharding)(key)


class RandomSnapshot(Snapshot):
    """Random weights in place of a folder."""

    def __init__(self, size: Size, *, dtype: Any, keep: bool = True, int8: bool = False):
        self.keep, self.dtype, self.task = keep, jnp.dtype(dtype), FROM_TEXT
        kernel = kernel_for("auto", platform=meshes.platform(), dtype=self.dtype)
        shift = 1.0 if size.transformer.use_rotary_positional_embeddings else 3.0
        self.schedule, self.text = Schedule(snr_shift=shift), NoText()
        self.transformer = Transformer(size.transformer, dtype=self.dtype, kernel=kernel)
        self.vae, self.encoder = Vae(size.vae, dtype=self.dtype), T5Encoder(size.text, dtype=self.dtype)
        self._loaded: dict[tuple, PyTree] = {}
        self.parts = {
            part: RandomPart(lambda rng, init=init: init(rng)["params"], storage_of(part, self.dtype, int8=int8))
            for part, init in self._inits().items()
        }
