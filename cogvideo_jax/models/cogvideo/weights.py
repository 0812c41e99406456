"""Folder of weights, checked when it is opened; arrays are loaded when a step needs them.

pipeline.json            the sampling config
tokenizer.safetensors    text.model    cluster_labels.npy (without it, one cluster per code)
base.safetensors         inherited by both stages, stored once
stage1.safetensors, stage2.safetensors, superres.safetensors, itersr.safetensors      the additions of each part
PART_base.safetensors    a part's own base, if it differs
"""

import functools
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict
from jax.sharding import NamedSharding

import cogvideo_jax
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.descriptions import OWN_BASE, Description, check_part, read_part
from cogvideo_jax.models.cogvideo.sampling_config import FILE, SamplingConfig, read_sampling_config
from cogvideo_jax.models.cogvideo.superres.models import DirectSuperResolution, IterativeSuperResolution
from cogvideo_jax.models.cogvideo.text import TextTokenizer
from cogvideo_jax.models.cogvideo.transformer.transformer import Backbone, Transformer, as_int8, stored_dtype
from cogvideo_jax.models.cogvideo.vq.tokenizer import VQTokenizer, load_tokenizer
from cogvideo_jax.nn.quantized import scale_sharding
from cogvideo_jax.notation import Array, Int, PyTree
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.runtime.files import SMALL_FILE, open_input
from cogvideo_jax.runtime.memory import tree_bytes
from cogvideo_jax.runtime.safetensors_stream import Leaf, read_leaf, require_finite
from cogvideo_jax.runtime.weights import read_description

STAGES = ("base", "stage1", "stage2")
SUPERRES, ITERSR, TOKENIZER = "superres", "itersr", "tokenizer"
DEMO_WEIGHTS = Path(cogvideo_jax.__file__).parent / "demo_weights"
MODELS = {SUPERRES: DirectSuperResolution, ITERSR: IterativeSuperResolution}
TEXT_MODEL, LABELS = "text.model", "cluster_labels.npy"
HEADERS = {(1, 0): np.lib.format.read_array_header_1_0, (2, 0): np.lib.format.read_array_header_2_0}  # by version


class Stage(NamedTuple):
    """A model and its parameters."""

    model: Backbone
    params: PyTree


class WeightsFolder:
    """Opens a folder and checks that its parts fit; loads no transformer yet.

    On the current mesh (`jax.set_mesh`) matrices are split by its rules.

    Args:
      dtype: compute and storage type of the transformers; None for float32 on a CPU, else bfloat16.
      keep: keep loaded parts on the device. False releases each before the next is loaded, which needs the memory of
        one stage only but reads it again for every call.
      int8: store the large matrices of the transformers as int8, with a scale for every output channel.

    Raises:
      UserError: something is missing, damaged or does not fit.
    """

    def __init__(self, folder: str | Path, *, dtype: Any = None, keep: bool = True, int8: bool = False):
        self.folder, self.keep, self.int8 = Path(folder), keep, int8
        self.dtype = jnp.dtype(dtype or (jnp.float32 if meshes.platform() == "cpu" else jnp.bfloat16))
        self.sampling_config: SamplingConfig = read_sampling_config(self.folder / FILE)
        parts = [*STAGES, *([SUPERRES] if self._path(SUPERRES).exists() else [])]
        parts += [ITERSR] if self.sampling_config.iterative_superres else []
        self.files: dict[str, tuple[Path, ...]] = {}
        self.models: dict[str, Backbone] = {}
        for name in parts:
            self._open(name)
        self._require_agreement()
        self._loaded: dict[Path, dict[str, Array]] = {}
        self._described: dict[Path, dict[str, jax.ShapeDtypeStruct]] = {}

    @functools.cached_property
    def tokenizer(self) -> VQTokenizer:
        """The image tokenizer. Raises UserError if its codes or its grid are not those of the transformers."""
        path, base, pixels = self._path(TOKENIZER), self.models["base"].config, self.sampling_config.pixels
        tokenizer = load_tokenizer(path)
        if tokenizer.config.codebook_size != base.image_codes:
            raise UserError(
                f"{path} has {tokenizer.config.codebook_size} codes, but these weights have {base.image_codes}"
            )
        if tokenizer.tokens_per_frame(pixels) != base.layout.frame_tokens:
            raise UserError(
                f"{path} makes {tokenizer.tokens_per_frame(pixels)} tokens of the {pixels} pixels of {FILE}, but these "
                f"weights have {base.layout.frame_tokens} a frame"
            )
        return tokenizer

    @functools.cached_property
    def text(self) -> TextTokenizer:
        """The text tokenizer."""
        path, base = self.folder / TEXT_MODEL, self.models["base"].config
        text = TextTokenizer.from_file(path, image_codes=base.image_codes)
        if text.vocabulary.boi > base.boi:
            most = text.vocabulary.text_pieces - text.vocabulary.boi + base.boi
            raise UserError(f"{path} has {text.vocabulary.text_pieces} pieces; these weights have room for {most}")
        return text

    @functools.cached_property
    def labels(self) -> Int[Array, "C"]:
        """Cluster of every image code."""
        path, codes = self.folder / LABELS, self.models["base"].config.image_codes
        labels = read_labels(path) if path.exists() else np.arange(codes, dtype=np.int32)
        if len(labels) != codes:
            raise UserError(f"{path} has {len(labels)} cluster numbers, but these weights have {codes} image codes")
        return jax.device_put(labels)

    def stage(self, name: str) -> Stage:
        """Model of a part, with its parameters on the device."""
        if not self.keep:
            for path in self._loaded.keys() - set(self.files[name]):
                del self._loaded[path]
        leaves: dict[str, Array] = {}
        for path in self.files[name]:
            leaves |= self._load(path)
        return Stage(self.models[name], unflatten_dict(leaves, sep="/"))

    def abstract(self, name: str) -> PyTree:
        """Shapes and types of a part's parameters on the device."""
        leaves: dict[str, jax.ShapeDtypeStruct] = {}
        for path in self.files[name]:
            leaves |= self._shapes(path)
        return unflatten_dict(leaves, sep="/")

    def bytes(self, *parts: str) -> int:
        """Bytes of parts on the device; a base that they share counts once."""
        files = {path for part in parts if part != TOKENIZER for path in self.files[part]}
        trees = [self._shapes(path) for path in files] + [self.tokenizer.params] * (TOKENIZER in parts)
        return sum(map(tree_bytes, trees))

    def largest_leaf(self, part: str) -> int:
        """Bytes of the largest array in a part's files."""
        if part == TOKENIZER:
            return max(leaf.nbytes for leaf in read_description(self._path(TOKENIZER))[0].values())
        return max(leaf.nbytes for path in self.files[part] for _, leaf, _ in self._leaves(path))

    def release(self) -> None:
        """Releases all transformers, unless parts are kept."""
        if not self.keep:
            self._loaded.clear()

    def _path(self, name: str) -> Path:
        return self.folder / f"{name}.safetensors"

    def _require_agreement(self) -> None:
        """Raises UserError if a part numbers tokens otherwise than the base, or the key frames cannot be refined."""
        base = self.models["base"].config
        for name, model in self.models.items():
            for key in ("vocab_size", "image_codes", "boi"):
                own, expected = getattr(model.config, key), getattr(base, key)
                if own != expected:
                    raise UserError(f"{self._path(name)}: {key} is {own}, but the base has {expected}")
        frames = self.models["stage1"].config.layout.frames
        if frames < 3 or frames % 2 == 0:
            raise UserError(f"{self._path('stage1')} writes {frames} key frames; an odd number of at least 3 is needed")

    def _open(self, name: str) -> None:
        """Registers a part's files and its model, after checking that they fit."""
        path = self._path(name)
        if not path.exists():
            raise UserError(f"weights {path} do not exist; train or convert them, or pass another folder")
        leaves, description = read_part(path, name)
        self.files[name] = self._files(name, description)
        if name != "base":
            leaves = read_description(self.files[name][0])[0] | leaves
        check_part(path, leaves, description)
        model = MODELS.get(name, Transformer)
        self.models[name] = model(description.config, dtype=self.dtype, unrolled=True)

    def _files(self, name: str, description: Description) -> tuple[Path, ...]:
        """Files of a part: its base, and its additions."""
        if name == "base":
            return (self._path(name),)
        return self._path(f"{name}{OWN_BASE}" if description.own_base else "base"), self._path(name)

    def _shapes(self, path: Path) -> dict[str, jax.ShapeDtypeStruct]:
        """Shapes and storage types of the leaves of a file."""
        if path not in self._described:
            shapes: dict[str, jax.ShapeDtypeStruct] = {}
            for own, leaf, _ in self._leaves(path):
                shape = jax.ShapeDtypeStruct(leaf.shape, leaf.dtype if self.int8 else self._dtype_of(own))
                shapes |= jax.eval_shape(functools.partial(self._kept, own), shape) if self.int8 else {own: shape}
            where = self._shardings
            self._described[path] = {
                own: jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=where.get(own)) for own, x in shapes.items()
            }
        return self._described[path]

    def _load(self, path: Path) -> dict[str, Array]:
        """Loads all leaves of a file, one at a time through host memory."""
        if path not in self._loaded:
            kept: dict[str, Array] = {}
            for own, _, read in self._leaves(path):
                for path_, x in self._kept(own, jax.device_put(read())).items():
                    kept[path_] = jax.device_put(x, self._shardings.get(path_))
            self._loaded[path] = kept
        return self._loaded[path]

    def _leaves(self, path: Path) -> Iterator[tuple[str, Leaf, Callable[[], Any]]]:
        """Leaves of a file, one for each layer as in sampling: path in the tree, type and shape, and a reader."""
        for name, leaf in read_description(path)[0].items():
            first, _, rest = name.partition("/")
            if first != "layers":
                yield name, leaf, functools.partial(_read, path, name)
                continue
            own = Leaf(leaf.dtype, leaf.shape[1:])
            for layer in range(leaf.shape[0]):
                yield f"layers_{layer}/{rest}", own, functools.partial(_layer, path, name, layer)

    def _kept(self, own: str, leaf: Array) -> dict[str, Array]:
        """Leaf in its storage type, or the int8 leaves that replace it."""
        codes = self.models["base"].config.image_codes
        kept = as_int8(own, leaf, image_codes=codes) if self.int8 else {own: leaf}
        return {path: x if x.dtype == jnp.int8 else x.astype(self._dtype_of(path)) for path, x in kept.items()}

    def _dtype_of(self, own: str) -> Any:
        return stored_dtype(tuple(own.split("/")), self.dtype)

    @functools.cached_property
    def _shardings(self) -> dict[str, NamedSharding]:
        """Shardings of leaves on the current mesh; empty without a mesh."""
        mesh = jax.sharding.get_mesh()
        if mesh.empty:
            return {}
        found: dict[str, NamedSharding] = {}
        for model in self.models.values():
            boxed = jax.eval_shape(lambda rng, m=model: m.init(rng, *m.empty_inputs())["params"], jax.random.key(0))
            found |= flatten_dict(meshes.shardings(boxed, mesh), sep="/")
        scales = {f"{own}_scale": scale_sharding(own.rpartition("/")[2], where) for own, where in found.items()}
        head = {"image_head": meshes.named(mesh, "codes", None), "image_head_scale": meshes.named(mesh, "codes")}
        return found | scales | head


def _read(path: Path, name: str, layers: slice | None = None) -> np.ndarray:
    return require_finite(read_leaf(path, name, layers), name=name, path=path)


def _layer(path: Path, name: str, layer: int) -> np.ndarray:
    return _read(path, name, slice(layer, layer + 1))[0]


def read_labels(path: str | Path) -> Int[np.ndarray, "C"]:
    """Reads cluster numbers, one per image code. Raises UserError if the file has something else."""
    with open_input(path, limit=SMALL_FILE) as file:
        count, dtype = _labels_header(file, path)
        data = file.read()
    if len(data) != count * dtype.itemsize:
        expected = f"{count} labels take {count * dtype.itemsize}"
        raise UserError(f"{path} is damaged: it has {len(data)} bytes of labels, but {expected}")
    labels = np.frombuffer(data, dtype)
    if labels.min() < 0 or labels.max() >= count:
        raise UserError(f"{path} has clusters {labels.min()}..{labels.max()} for {count} image codes")
    return labels.astype(np.int32)


def _labels_header(file: BinaryIO, path: str | Path) -> tuple[int, np.dtype]:
    """Number and type of the labels of a NumPy file."""
    try:
        read = HEADERS[np.lib.format.read_magic(file)]
        shape, _, dtype = read(file)
    except Exception as error:  # NumPy's reader fails in many ways
        raise UserError(f"{path} is not a NumPy file of cluster labels") from error
    if dtype.kind not in "iu" or len(shape) != 1 or shape[0] < 1:
        raise UserError(f"{path} has {dtype} of shape {shape}, expected whole numbers in one row, one an image code")
    return shape[0], dtype
