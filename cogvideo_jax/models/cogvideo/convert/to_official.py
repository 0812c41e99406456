"""Exports a part of a folder of weights under the official names, for use with the 2022 code.

In: the folder and the part. Out, by the target's name: a SAT folder (latest, model_config.json, one .pt), a .pt file,
or safetensors. One array is in memory at a time, every bit is kept, and an interrupted export leaves nothing. A
file has the settings beside its weights, where the 2022 code does not look.
"""

import dataclasses
import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import numpy as np

from cogvideo_jax.convert.check import check_leaves
from cogvideo_jax.convert.checkpoint_files import LATEST, RANK_0
from cogvideo_jax.convert.torch_files import SETTINGS, write_torch_file
from cogvideo_jax.convert.workspace import require_folder_name
from cogvideo_jax.errors import ConversionError, conversion_errors
from cogvideo_jax.models.cogvideo.convert import vq_names
from cogvideo_jax.models.cogvideo.convert.parts import Part, table_of
from cogvideo_jax.models.cogvideo.convert.sizes import to_settings
from cogvideo_jax.models.cogvideo.convert.transformer_names import names_of, official_shape, to_official_layout
from cogvideo_jax.models.cogvideo.descriptions import OWN_BASE, Description, check_part, read_part
from cogvideo_jax.runtime.files import require_free, require_space, whole_folder, write_text
from cogvideo_jax.runtime.safetensors_stream import Leaf, read_leaf, write_stream
from cogvideo_jax.runtime.weights import read_description

ITERATION = "1"  # the content of `latest`, and the name of the folder of weights
CHUNK = 16 << 20  # bytes of a table in memory at a time


class Official(NamedTuple):
    """A part under its official names.

    Attributes:
      leaves: official name -> type and shape.
      chunks: official name -> its data, in chunks.
      settings: of `model_config.json`.
    """

    leaves: dict[str, Leaf]
    chunks: Callable[[str], Iterator[np.ndarray]]
    settings: dict


def convert_back(folder: str | Path, target: str | Path, *, part: str, replace: bool = False) -> Path:
    """Writes a part under its official names.

    Args:
      target: a folder, or a file that ends in .pt or .safetensors.
      replace: take the place of such a folder or file.

    Raises:
      UserError: the part is missing, damaged or does not fit, or the target exists.
    """
    folder, target, part = Path(folder), Path(target), Part(part)
    if target.suffix in WRITERS:
        require_free(target, replace=replace)
    elif part == Part.TOKENIZER:
        raise ConversionError(f"the official tokenizer is one file; {target} must end in .pt or .safetensors")
    else:
        require_folder_name(target)
    official = _tokenizer(folder) if part == Part.TOKENIZER else _transformer(folder, part)
    require_space(target, sum(leaf.nbytes for leaf in official.leaves.values()), f"writing {target}")
    WRITERS.get(target.suffix, _write_folder)(official, target, replace=replace)
    return target


def _write_folder(official: Official, path: Path, *, replace: bool) -> None:
    with whole_folder(path, replace=replace, ours=lambda name: name in (LATEST, SETTINGS, ITERATION)) as draft:
        write_text(draft / LATEST, ITERATION)
        write_text(draft / SETTINGS, json.dumps(official.settings, indent=1))
        _write_torch(official, draft / ITERATION / RANK_0, replace=False)


def _write_torch(official: Official, path: Path, *, replace: bool) -> None:
    write_torch_file(path, official.leaves, chunks=official.chunks, settings=official.settings, replace=replace)


def _write_safetensors(official: Official, path: Path, *, replace: bool) -> None:
    metadata = {SETTINGS: json.dumps(official.settings)}
    write_stream(path, official.leaves, chunks=official.chunks, metadata=metadata, replace=replace)


WRITERS = {".pt": _write_torch, ".safetensors": _write_safetensors}  # by suffix; other names are folders


def _transformer(folder: Path, part: Part) -> Official:
    path = folder / f"{part}.safetensors"
    leaves, description = _described(path, part)
    files = dict.fromkeys(leaves, path)
    if part != Part.BASE:
        base = folder / (f"{part}{OWN_BASE}.safetensors" if description.own_base else "base.safetensors")
        inherited, _ = read_description(base)
        leaves, files = inherited | leaves, dict.fromkeys(inherited, base) | files
    check_part(path, leaves, description)
    config, rules = description.config, {"/".join(place): rule for place, rule in table_of(part).items()}
    places = {
        official: (name, layer if "{i}" in rule.official else None)
        for name, rule in rules.items()
        for layer, official in enumerate(names_of(rule, config.layers))
    }

    def chunks(official: str) -> Iterator[np.ndarray]:
        name, layer = places[official]
        if layer is None:  # tables, which keep their layout and are the largest arrays
            step = max(1, CHUNK * leaves[name].shape[0] // leaves[name].nbytes)
            for row in range(0, leaves[name].shape[0], step):
                yield read_leaf(files[name], name, slice(row, min(row + step, leaves[name].shape[0])))
        else:
            yield to_official_layout(read_leaf(files[name], name, slice(layer, layer + 1))[0], rules[name].kind, config)

    official = {key: Leaf(leaves[name].dtype, official_shape(rules[name], config)) for key, (name, _) in places.items()}
    return Official(official, chunks, to_settings(config, part))


def _tokenizer(folder: Path) -> Official:
    path = folder / f"{Part.TOKENIZER}.safetensors"
    leaves, description = _described(path, Part.TOKENIZER)
    with conversion_errors(f"{path} does not describe a tokenizer that the release can have"):
        table = vq_names.name_table(description.config)
    ours = {name: "/".join(place.path) for name, place in table.items()}
    check_leaves(leaves, {ours[name]: place.shape for name, place in table.items()}, source=path)
    official = {name: Leaf(leaves[ours[name]].dtype, vq_names.official_shape(place)) for name, place in table.items()}

    def chunks(name: str) -> Iterator[np.ndarray]:
        yield vq_names.to_official_layout(read_leaf(path, ours[name]), table[name])

    return Official(official, chunks, {"tokenizer": dataclasses.asdict(description.config)})


def _described(path: Path, part: Part) -> tuple[dict[str, Leaf], Description]:
    if read_description(path)[1].get("kind") != part:
        raise ConversionError(f"{path} does not hold the {part}")
    return read_part(path, part)
