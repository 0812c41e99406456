"""The parts of a diffusers snapshot as they are written: folders of small files and of safetensors.

Tensors go into shards of at most LIMIT bytes in the order of a torch state dict, as `save_pretrained` of the libraries
fills them, so that files have the names and sizes of the released ones.
"""

import json
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cogvideo_jax.convert.torch_names import from_torch, to_torch, torch_name
from cogvideo_jax.convert.torch_part import TorchPart
from cogvideo_jax.errors import ConversionError
from cogvideo_jax.models.cogvideox.snapshot import TEXT, TRANSFORMER, VAE
from cogvideo_jax.runtime.files import whole_folder, write_bytes
from cogvideo_jax.runtime.progress import progress_bar
from cogvideo_jax.runtime.safetensors_stream import Leaf, write_stream

LIMIT = 5 * 10**9  # bytes of a file's tensors
CONFIG = "config.json"
SCHEDULER, SCHEDULER_CONFIG = "scheduler", "scheduler_config.json"
TOKENIZER = "tokenizer"
TOKENIZER_FILES = (
    "spiece.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "tokenizer.json",
)
STEMS = {TEXT: "model", TRANSFORMER: "diffusion_pytorch_model", VAE: "diffusion_pytorch_model"}
WEIGHTS = re.compile(rf"({'|'.join(sorted(set(STEMS.values())))})(-\d+-of-\d+)?\.safetensors(\.index\.json)?")
VERSION = "0.32.0"  # of diffusers: the first that knows all variants
DDIM = "CogVideoXDDIMScheduler"
CLASSES = {
    SCHEDULER: ("diffusers", DDIM),
    TEXT: ("transformers", "T5EncoderModel"),
    TOKENIZER: ("transformers", "T5Tokenizer"),
    TRANSFORMER: ("diffusers", "CogVideoXTransformer3DModel"),
    VAE: ("diffusers", "AutoencoderKLCogVideoX"),
}

# Pieces of names in the order of a state dict, where that is not the order of the alphabet.
OUTER = ("patch_embed", "time_embedding", "ofs_embedding", "transformer_blocks", "norm_final", "norm_out", "proj_out")
IN_BLOCK = ("norm1", "attn1", "norm2", "ff", "norm_q", "norm_k", "to_q", "to_k", "to_v", "to_out")
IN_T5 = ("shared", "encoder", "q", "k", "v", "o", "relative_attention_bias")
ORDER = {piece: rank for rank, piece in enumerate((*OUTER, *IN_BLOCK, *IN_T5, "weight", "bias"))}


class Part(NamedTuple):
    """A folder of a snapshot, before it is written.

    Attributes:
      name: of the folder.
      files: name -> content of its small files.
      leaves: torch name -> type and shape.
      read: torch name -> tensor.
    """

    name: str
    files: Mapping[str, bytes]
    leaves: Mapping[str, Leaf] = {}
    read: Callable[[str], np.ndarray] | None = None

    @property
    def nbytes(self) -> int:
        """Of the tensors and files."""
        return sum(leaf.nbytes for leaf in self.leaves.values()) + sum(map(len, self.files.values()))


def json_bytes(values: Mapping[str, Any]) -> bytes:
    """A JSON file as the libraries write it."""
    return (json.dumps(values, indent=2, sort_keys=True) + "\n").encode()


def index_file(class_name: str, *, scheduler: str = DDIM) -> dict[str, Any]:
    """`model_index.json` of a complete snapshot."""
    parts = CLASSES | {SCHEDULER: ("diffusers", scheduler)}
    return {"_class_name": class_name, "_diffusers_version": VERSION} | {name: list(of) for name, of in parts.items()}


def part_of(
    name: str,
    opened: TorchPart,
    config: Mapping[str, Any],
    *,
    changed: Callable[[str, np.ndarray], np.ndarray] = lambda name, tensor: tensor,
) -> Part:
    """An opened part, whose tensors pass through our parameter tree.

    Args:
      config: content of its `config.json`.
      changed: (torch name, tensor) -> tensor, as for LoRA.
    """
    paths = {torch_name(path): path for path in opened.leaves}

    def read(name: str) -> np.ndarray:
        path, tensor = paths[name], changed(name, opened.tensors.read(name))
        return to_torch(path, from_torch(path, tensor, opened.leaves[path].shape), tensor.shape)

    leaves = {name: opened.tensors.leaves[name] for name in paths}
    return Part(name, {CONFIG: json_bytes(config)}, leaves, read)


def state_dict_order(name: str) -> list[tuple[int, int, str]]:
    """Sorts names as torch lists them."""
    return [
        (int(piece), 0, "") if piece.isdecimal() else (0, ORDER.get(piece, len(ORDER)), piece)
        for piece in name.split(".")
    ]


def shards(leaves: Mapping[str, Leaf], stem: str) -> dict[str, list[str]]:
    """File -> its tensors: one file, or several of at most LIMIT bytes unless one tensor has more."""
    groups, size = [[]], 0
    for name in sorted(leaves, key=state_dict_order):
        size += leaves[name].nbytes
        if groups[-1] and size > LIMIT:
            groups.append([])
            size = leaves[name].nbytes
        groups[-1].append(name)
    if len(groups) == 1:
        return {f"{stem}.safetensors": groups[0]}
    return {f"{stem}-{i:05d}-of-{len(groups):05d}.safetensors": group for i, group in enumerate(groups, start=1)}


def require_free_parts(target: Path, parts: Iterable[Part], *, replace: bool) -> None:
    """Raises ConversionError if a part is there and may not be replaced."""
    for part in parts:
        folder = target / part.name
        if folder.is_symlink() or (folder.exists() and not folder.is_dir()):
            raise ConversionError(f"{folder} is not a folder; choose another target")
        kept = [path.name for path in folder.glob("*") if not (replace and _is_ours(path.name))]
        if kept:
            advice = "choose another target" if replace else "choose another target, or pass --force to replace it"
            raise ConversionError(f"{folder} has {kept[0]!r} already; {advice}")


def write_parts(target: Path, parts: Sequence[Part], *, replace: bool) -> list[Path]:
    """Writes one part after the other; each appears when it is complete. Returns their folders."""
    with progress_bar(total=sum(part.nbytes for part in parts), unit="B", unit_scale=True, desc="converting") as bar:
        for part in parts:
            with whole_folder(target / part.name, replace=replace, ours=_is_ours) as draft:
                _fill(draft, part, bar)
    return [target / part.name for part in parts]


def _is_ours(name: str) -> bool:
    """Whether a file of a part may be replaced."""
    return name in (CONFIG, SCHEDULER_CONFIG, *TOKENIZER_FILES) or WEIGHTS.fullmatch(name) is not None


def _fill(folder: Path, part: Part, bar: Any) -> None:
    for name, content in part.files.items():
        write_bytes(folder / name, content)
        bar.update(len(content))
    if not part.leaves:
        return

    def chunks(name: str) -> Iterable[np.ndarray]:
        tensor = part.read(name)
        yield tensor
        bar.update(tensor.nbytes)

    stem, metadata = STEMS[part.name], {"format": "pt"}
    files = shards(part.leaves, stem)
    for file, names in files.items():
        write_stream(folder / file, {name: part.leaves[name] for name in names}, chunks=chunks, metadata=metadata)
    if len(files) > 1:
        total = sum(leaf.nbytes for leaf in part.leaves.values())
        weight_map = {name: file for file, names in files.items() for name in names}
        index = {"metadata": {"total_size": total}, "weight_map": weight_map}
        write_bytes(folder / f"{stem}.safetensors.index.json", json_bytes(index))
