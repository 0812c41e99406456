"""The tensors of one part of a diffusers or transformers snapshot: one safetensors file, or shards with an index.

diffusion_pytorch_model.safetensors
diffusion_pytorch_model.safetensors.index.json      {"metadata": {...}, "weight_map": {tensor: file}}
diffusion_pytorch_model-00001-of-00002.safetensors, ...
"""

import collections
import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import AfterValidator, Field

from cogvideo_jax.errors import ConversionError, UserError
from cogvideo_jax.runtime.safetensors_stream import Leaf, read_header, read_leaf, require_finite
from cogvideo_jax.runtime.schemas import STRICT, dataclass_schema, read_json, shown

STEMS = ("diffusion_pytorch_model", "model")
PICKLES = ("*.bin", "*.pt", "*.pth", "*.ckpt")
MOST_TENSORS = 100_000


def _is_shard(text: str) -> str:
    if not re.fullmatch(r"[\w.-]{1,200}\.safetensors", text):
        raise ValueError("it should be the name of a safetensors file, without folders")
    return text


Shard = Annotated[str, Field(strict=True), AfterValidator(_is_shard)]


@dataclass_schema(STRICT | {"extra": "ignore"})
class Index:
    """The index of shards.

    Attributes:
      weight_map: file of every tensor.
    """

    weight_map: Annotated[dict[str, Shard], Field(min_length=1, max_length=MOST_TENSORS)]


class Shards:
    """Headers of a part's files; tensors are read one at a time.

    Attributes:
      leaves: type and shape of every tensor.

    Raises:
      UserError: a file is missing or damaged, or the index does not name what the files hold.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self.leaves: dict[str, Leaf] = {}
        self._files: dict[str, Path] = {}
        for path, names in _files(folder).items():
            leaves = _header(path, names)
            self.leaves |= leaves
            self._files |= dict.fromkeys(leaves, path)

    def read(self, name: str) -> np.ndarray:
        """A tensor. Raises UserError if it cannot be read or has numbers that are not finite."""
        path = self._files[name]
        return require_finite(read_leaf(path, name), name=name, path=path)


def damages(folder: Path) -> Iterator[str]:
    """A sentence for each file that is missing or damaged. Reads every tensor once."""
    try:
        files = _files(folder)
    except UserError as error:
        yield str(error)
        return
    for path, names in files.items():
        try:
            for name in _header(path, names):
                require_finite(read_leaf(path, name), name=name, path=path)
        except UserError as error:
            yield str(error)


def _files(folder: Path) -> dict[Path, set[str] | None]:
    """Files of a part, and the tensors that the index says are in each; None where there is no index."""
    for stem in STEMS:
        single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
        if os.path.lexists(index):
            return _indexed(index)
        if os.path.lexists(single):
            return {single: None}
    pickles = sorted(path for pattern in PICKLES for path in folder.glob(pattern))
    if pickles:
        raise ConversionError(
            f"{pickles[0]} is a pickle, and loading one can run code, so it is not read; download the part's "
            "safetensors files"
        )
    raise ConversionError(
        f"{folder} has no {STEMS[0]}.safetensors and no {STEMS[1]}.safetensors, nor an index of one; download the "
        "folder again"
    )


def _indexed(index: Path) -> dict[Path, set[str] | None]:
    files: dict[Path, set[str] | None] = collections.defaultdict(set)
    for name, file in read_json(index, Index).weight_map.items():
        files[index.parent / file].add(name)  # type: ignore[union-attr]
    return dict(files)


def _header(path: Path, names: set[str] | None) -> dict[str, Leaf]:
    """Tensors of a file. Raises ConversionError unless they are the ones that the index says."""
    if names is not None and not os.path.lexists(path):
        raise ConversionError(f"{path} does not exist, but the index of {path.parent.name} names it; download it")
    leaves = read_header(path)[0]
    if names is None or names == leaves.keys():
        return leaves
    absent, unknown = sorted(names - leaves.keys()), sorted(leaves.keys() - names)
    what = (
        f"lacks {shown(absent[0])}, which its index places there"
        if absent
        else f"holds {shown(unknown[0])}, which its index does not place there"
    )
    raise ConversionError(f"{path} {what}; download the folder again")
