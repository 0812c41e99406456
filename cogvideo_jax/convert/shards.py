"""The tensors of one part of a diffusers or transformers snapshot: one safetensors file, or shards with an index.

diffusion_pytorch_model.safetensors
diffusion_pytorch_model.safetensors.index.json      {"metadata": {...}, "weight_map": {tensor: file}}
diffusion_pytorch_model-00001-of-00002.safetensors, ...
"""

import collections
from pathlib import Path
from typing import Annotated

import numpy as np
from pydantic import Field

from cogvideo_jax.errors import ConversionError
from cogvideo_jax.runtime.safetensors_stream import Leaf, read_header, read_leaf, require_finite
from cogvideo_jax.runtime.schemas import STRICT, FileName, dataclass_schema, read_json

STEMS = ("diffusion_pytorch_model", "model")
MOST_TENSORS = 100_000


@dataclass_schema(STRICT | {"extra": "ignore"})
class Index:
    """The index of shards.

    Attributes:
      weight_map: file of every tensor.
    """

    weight_map: Annotated[dict[str, FileName], Field(min_length=1, max_length=MOST_TENSORS)]


class Shards:
    """Headers of a part's files; tensors are read one at a time.

    Attributes:
      leaves: type and shape of every tensor.

    Raises:
      ConversionError: a file is missing or damaged, or the index does not name what the files hold.
    """

    def __init__(self, folder: Path):
        self.folder = folder
        self._files = _files(folder)
        headers = {path: read_header(path)[0] for path in dict.fromkeys(self._files.values())}
        self._check(headers)
        self.leaves: dict[str, Leaf] = {name: headers[path][name] for name, path in self._files.items()}

    def read(self, name: str) -> np.ndarray:
        """A tensor. Raises UserError if it has numbers that are not finite."""
        path = self._files[name]
        return require_finite(read_leaf(path, name), name=name, path=path)

    def _check(self, headers: dict[Path, dict[str, Leaf]]) -> None:
        """Raises ConversionError unless every file holds the tensors that the index says, and no others."""
        expected = collections.defaultdict(set)
        for name, path in self._files.items():
            expected[path].add(name)
        for path, names in expected.items():
            absent, unknown = sorted(names - headers[path].keys()), sorted(headers[path].keys() - names)
            if absent or unknown:
                what = f"lacks {absent[0]}" if absent else f"holds {unknown[0]}"
                raise ConversionError(f"{path} {what}, other than its index says; download the folder again")


def _files(folder: Path) -> dict[str, Path]:
    """File of every tensor of a part."""
    for stem in STEMS:
        single, index = folder / f"{stem}.safetensors", folder / f"{stem}.safetensors.index.json"
        if index.exists():
            names = read_json(index, Index).weight_map
            for file in dict.fromkeys(names.values()):
                if not (folder / file).exists():
                    raise ConversionError(f"{folder / file} does not exist, but {index.name} names it; download it")
            return {name: folder / file for name, file in names.items()}
        if single.exists():
            return dict.fromkeys(read_header(single)[0], single)
    raise ConversionError(f"{folder} has no {STEMS[0]}.safetensors and no {STEMS[1]}.safetensors, nor an index of one")
