"""Models with random weights to measure: the demo's size, the release's, and one in between."""

import dataclasses
import functools
from collections.abc import Iterator
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.models.cogvideo import config as presets
from cogvideo_jax.models.cogvideo.sampling_config import RELEASED
from cogvideo_jax.models.cogvideo.superres import config as superres_presets
from cogvideo_jax.models.cogvideo.superres.models import DirectSuperResolution
from cogvideo_jax.models.cogvideo.text import TextTokenizer
from cogvideo_jax.models.cogvideo.training.parameters import stored
from cogvideo_jax.models.cogvideo.transformer.transformer import Backbone, Transformer, as_int8, is_attention_plus
from cogvideo_jax.models.cogvideo.vq.codebook import Codebook
from cogvideo_jax.models.cogvideo.vq.config import DEMO, OFFICIAL, VQConfig
from cogvideo_jax.models.cogvideo.vq.networks import abstract_networks
from cogvideo_jax.models.cogvideo.vq.tokenizer import VQTokenizer
from cogvideo_jax.models.cogvideo.weights import DEMO_WEIGHTS, SUPERRES, TEXT_MODEL, WeightsFolder
from cogvideo_jax.notation import Array, Int, PyTree
from cogvideo_jax.runtime.safetensors_stream import Leaf

PARTS = {
    "base": (presets.demo_base, presets.cogview2),
    "stage1": (presets.demo_stage1, presets.cogvideo_stage1),
    "stage2": (presets.demo_stage2, presets.cogvideo_stage2),
    SUPERRES: (superres_presets.demo_direct, superres_presets.cogview2_direct),
}
TOKENIZERS = {"demo": DEMO, "full": OFFICIAL}
MIDDLE = dict(width=512, heads=8, layers=8, mlp_width=2048, vocab_size=20_100, boi=20_050)
SIZES = ("demo", "middle", "full")
CLUSTERS = 500  # of image codes, as in the release


def sized(size: str, part: str):
    """Config of a part of size demo, middle (width 512, 8 layers, 20 x 20 tokens of 20,000 codes) or full."""
    demo, full = (make() for make in PARTS[part])
    return {"demo": demo, "middle": dataclasses.replace(full, **MIDDLE), "full": full}[size]


class RandomWeights(WeightsFolder):
    """Random weights in place of a folder, middle or full, sampled like the release; only the text model is real."""

    def __init__(self, size: str, *, dtype: str, keep: bool = True, int8: bool = False):
        self.folder, self.keep, self.int8, self.dtype = DEMO_WEIGHTS, keep, int8, jnp.dtype(dtype)
        self.sampling_config, self._loaded, self._described = RELEASED, {}, {}
        kinds = {part: DirectSuperResolution if part == SUPERRES else Transformer for part in PARTS}
        self.models = {part: kind(sized(size, part), dtype=self.dtype, unrolled=True) for part, kind in kinds.items()}
        self.files = {part: (Path("base"),) if part == "base" else (Path("base"), Path(part)) for part in PARTS}

    @functools.cached_property
    def tokenizer(self) -> VQTokenizer:
        """Random tokenizer of the release's size."""
        return random_tokenizer(OFFICIAL)

    @functools.cached_property
    def text(self) -> TextTokenizer:
        """Text tokenizer of the demo, with ids after this model's image codes."""
        return TextTokenizer.from_file(DEMO_WEIGHTS / TEXT_MODEL, image_codes=self.models["base"].config.image_codes)

    @functools.cached_property
    def labels(self) -> Int[Array, "C"]:
        """Clusters of equal size."""
        return jnp.arange(self.models["base"].config.image_codes) % CLUSTERS

    def _leaves(self, path: Path) -> Iterator[tuple[str, Leaf, functools.partial]]:
        part = path.name
        shapes = flatten_dict(abstract_params(self.models[part], self.dtype))
        for number, (own, leaf) in enumerate(shapes.items()):
            if is_attention_plus(own) == (part != "base"):
                read = functools.partial(_random, jax.random.key(number), leaf.shape, leaf.dtype)
                yield "/".join(own), Leaf(np.dtype(leaf.dtype), leaf.shape), read


def random_tokenizer(config: VQConfig) -> VQTokenizer:
    """Tokenizer with small random weights."""
    codes = jax.ShapeDtypeStruct((config.codebook_size, config.code_width), jnp.float32)
    counts = jax.ShapeDtypeStruct((config.codebook_size,), jnp.float32)
    like = {"networks": nn.meta.unbox(abstract_networks(config)), "codebook": Codebook(codes, counts, codes)}
    return VQTokenizer(config, random_like(like))


def abstract_params(model: Backbone, dtype: jnp.dtype, *, int8: bool = False) -> PyTree:
    """Shapes of all parameters, in their storage types for sampling."""
    params = jax.eval_shape(lambda rng: model.init(rng, *model.empty_inputs())["params"], jax.random.key(0))
    params = stored(nn.meta.unbox(params), jnp.dtype(dtype))
    if not int8:
        return params
    kept: dict = {}
    for own, leaf in flatten_dict(params, sep="/").items():
        kept |= jax.eval_shape(functools.partial(as_int8, own, image_codes=model.config.image_codes), leaf)
    return unflatten_dict(kept, sep="/")


def random_like(tree: PyTree) -> PyTree:
    """Small random numbers in the shapes of a tree, one leaf at a time, so that a large model is in memory once."""
    leaves, structure = jax.tree.flatten(tree)
    keys = jax.random.split(jax.random.key(0), len(leaves))
    return structure.unflatten([_random(key, leaf.shape, leaf.dtype) for key, leaf in zip(keys, leaves)])


@functools.partial(jax.jit, static_argnums=(1, 2))
def _random(key, shape: tuple[int, ...], dtype: jnp.dtype):
    if not jnp.issubdtype(dtype, jnp.floating):
        return jnp.zeros(shape, dtype)  # counters of the optimizer
    return jnp.abs(0.02 * jax.random.normal(key, shape, dtype))  # second moments are not negative
