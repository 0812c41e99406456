"""A folder of weights: what is in it is known at once, arrays come to the device when a step needs them.

pipeline.json            the recipe
tokenizer.safetensors    text.model    cluster_labels.npy (else one cluster a code)
base.safetensors         inherited by both stages, stored once
stage1.safetensors, stage2.safetensors, superres.safetensors      what each adds
PART_base.safetensors    where a released part's own base differs
"""

import functools
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import unflatten_dict

from cogvideo_jax.model import config as transformer_config
from cogvideo_jax.model.transformer import Backbone, Transformer, stored_dtype
from cogvideo_jax.notation import Array, Int, PyTree
from cogvideo_jax.recipe import FILE, Recipe, read_recipe
from cogvideo_jax.runtime.safetensors_stream import read_leaf
from cogvideo_jax.runtime.weights import read_description
from cogvideo_jax.superres import config as superres_config
from cogvideo_jax.superres.models import DirectSuperResolution
from cogvideo_jax.tokens.text import TextTokenizer
from cogvideo_jax.tokens.vq_tokenizer import VQTokenizer, load_tokenizer

STAGES = ("base", "stage1", "stage2")
SUPERRES, TOKENIZER = "superres", "tokenizer"
TEXT_MODEL, LABELS = "text.model", "cluster_labels.npy"


class Stage(NamedTuple):
    """A model and its parameters."""

    model: Backbone
    params: PyTree


class WeightsFolder:
    """Opens a folder and checks that its parts fit; loads no transformer yet.

    Args:
      dtype: in which the transformers compute and their matrices are kept; None for float32 on a CPU, else bfloat16.
      keep: parts stay on the device once loaded; False lets go of one before the next comes, which needs the memory
        of one stage only and reads each anew for every call.

    Raises:
      ValueError: one sentence, if something is missing, damaged or does not fit.
    """

    def __init__(self, folder: str | Path, *, dtype: Any = None, keep: bool = True):
        self.folder, self.keep = Path(folder), keep
        self.dtype = jnp.dtype(dtype or (jnp.float32 if jax.default_backend() == "cpu" else jnp.bfloat16))
        self.recipe: Recipe = read_recipe(self.folder / FILE)
        parts = [name for name in (*STAGES, SUPERRES) if name in STAGES or self._path(name).exists()]
        described = {name: _description(self._path(name)) for name in parts}
        self.files = {name: self._files(name, described[name]) for name in parts}
        self.models = {name: self._model(name, described[name]) for name in parts}
        self._loaded: dict[Path, dict[str, Array]] = {}

    @functools.cached_property
    def tokenizer(self) -> VQTokenizer:
        """The image tokenizer."""
        return load_tokenizer(self.folder / "tokenizer.safetensors")

    @functools.cached_property
    def text(self) -> TextTokenizer:
        """The text tokenizer."""
        codes = self.models["base"].config.image_codes
        return TextTokenizer.from_file(self.folder / TEXT_MODEL, image_codes=codes)

    @functools.cached_property
    def labels(self) -> Int[Array, "C"]:
        """Cluster of every image code."""
        path, codes = self.folder / LABELS, self.models["base"].config.image_codes
        labels = read_labels(path) if path.exists() else np.arange(codes)
        if len(labels) != codes:
            raise ValueError(f"{path} has {len(labels)} cluster numbers, but these weights have {codes} image codes")
        return jnp.asarray(labels, jnp.int32)

    def stage(self, name: str) -> Stage:
        """A part with its parameters on the device."""
        if not self.keep:
            for path in self._loaded.keys() - set(self.files[name]):
                del self._loaded[path]
        leaves: dict[str, Array] = {}
        for path in self.files[name]:
            leaves |= self._load(path)
        return Stage(self.models[name], unflatten_dict(leaves, sep="/"))

    def abstract(self, name: str) -> PyTree:
        """Shapes and types of a part's parameters as they will be on the device."""
        leaves: dict[str, jax.ShapeDtypeStruct] = {}
        for path in self.files[name]:
            leaves |= self._shapes(path)
        return unflatten_dict(leaves, sep="/")

    def bytes(self, *parts: str) -> int:
        """What these parts take on the device; a file that several of them stand on counts once."""
        files = {path for part in parts if part != TOKENIZER for path in self.files[part]}
        trees = [self._shapes(path) for path in files] + [self.tokenizer.params] * (TOKENIZER in parts)
        return sum(leaf.size * leaf.dtype.itemsize for leaf in jax.tree.leaves(trees))

    def largest_leaf(self, part: str) -> int:
        """Bytes of the largest array in a part's files."""
        files = [self._path(TOKENIZER)] if part == TOKENIZER else self.files[part]
        return max(leaf.nbytes for path in files for leaf in read_description(path)[0].values())

    def release(self) -> None:
        """Lets go of all transformers if they are not to be kept."""
        if not self.keep:
            self._loaded.clear()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _files(self, name: str, description: dict) -> tuple[Path, ...]:
        """The base that a part stands on, and what it adds."""
        if name == "base":
            return (self._path(name),)
        return self._path(f"{name}_base" if description.get("own_base") else "base"), self._path(name)

    def _model(self, name: str, description: dict) -> Backbone:
        values = description.get("config")
        try:
            if name == SUPERRES:
                return DirectSuperResolution(superres_config.from_dict(values), dtype=self.dtype)
            return Transformer(transformer_config.from_dict(values), dtype=self.dtype)
        except (ValueError, TypeError) as error:
            raise ValueError(f"{self._path(name)} does not describe a {name}: {error}") from error

    def _shapes(self, path: Path) -> dict[str, jax.ShapeDtypeStruct]:
        leaves, _ = read_description(path)
        return {name: jax.ShapeDtypeStruct(leaf.shape, self._kept_as(name)) for name, leaf in leaves.items()}

    def _kept_as(self, name: str) -> Any:
        return stored_dtype(tuple(name.split("/")), self.dtype)

    def _load(self, path: Path) -> dict[str, Array]:
        """All leaves of a file, one at a time through the host's memory."""
        if path not in self._loaded:
            leaves, _ = read_description(path)
            self._loaded[path] = {
                name: jnp.asarray(read_leaf(path, name), self._kept_as(name)) for name, leaf in leaves.items()
            }
        return self._loaded[path]


def read_labels(path: str | Path) -> Int[np.ndarray, "C"]:
    """Cluster numbers, one an image code. Raises ValueError if the file holds something else."""
    try:
        labels = np.load(path, allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise ValueError(f"{path} is not a NumPy file of cluster labels") from error
    if labels.ndim != 1 or labels.dtype.kind not in "iu" or not labels.size or labels.min() < 0:
        raise ValueError(f"{path} should hold cluster numbers, one an image code")
    return labels


def _description(path: Path) -> dict:
    try:
        return read_description(path)[1]
    except ValueError as error:
        if path.exists():
            raise
        raise ValueError(f"weights {path} do not exist; train or convert them, or pass another folder") from error
