"""The authors' checkpoints (SAT) -> a diffusers snapshot, one tensor in memory at a time.

In: a transformer or a VAE (a SAT folder, its zip, a .pt or a safetensors file with SAT's names), and T5 as the
transformers library keeps it. Out: folders of a snapshot, in the types of the source. A LoRA becomes a file.
"""

import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from flax.traverse_util import flatten_dict

from cogvideo_jax.convert.check import check_leaves, grouped
from cogvideo_jax.convert.checkpoint_files import Checkpoint, Rank, open_checkpoint
from cogvideo_jax.convert.torch_names import torch_name
from cogvideo_jax.convert.torch_part import torch_shape
from cogvideo_jax.convert.workspace import workspace
from cogvideo_jax.errors import ConversionError, conversion_errors
from cogvideo_jax.models.cogvideox.config import TransformerConfig
from cogvideo_jax.models.cogvideox.convert import names, sizes, t5_files
from cogvideo_jax.models.cogvideox.convert.lora_file import is_lora, write_lora
from cogvideo_jax.models.cogvideox.convert.snapshot_files import (
    CONFIG,
    SCHEDULER,
    SCHEDULER_CONFIG,
    Part,
    index_file,
    json_bytes,
    require_free_parts,
    write_parts,
)
from cogvideo_jax.models.cogvideox.snapshot import (
    FROM_IMAGE,
    INDEX,
    TEXT,
    TRANSFORMER,
    VAE,
    SchedulerConfig,
    read_task,
    read_transformer,
    read_vae,
)
from cogvideo_jax.models.cogvideox.transformer import Transformer
from cogvideo_jax.models.cogvideox.vae import Vae
from cogvideo_jax.models.cogvideox.vae_config import VaeConfig
from cogvideo_jax.nn.attention import Kernel
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime.files import require_space, write_bytes
from cogvideo_jax.runtime.safetensors_stream import Leaf, require_finite
from cogvideo_jax.runtime.schemas import read_json

LORA_SUFFIX = ".safetensors"
OF_VAE = ("encoder.", "decoder.")


class Converted(NamedTuple):
    """Folders and files that were written, and notes for the user."""

    paths: list[Path]
    notes: list[str]


class Kind(NamedTuple):
    """How the tensors of a part are named and checked.

    Attributes:
      part: name of its folder.
      prefix: of all names in the SAT file.
      dropped: names, without the prefix, that may be left out.
      source: name of diffusers -> where it comes from.
      init: rng -> boxed parameters of our module.
    """

    part: str
    prefix: str
    dropped: re.Pattern
    source: Callable[[str], names.Source]
    init: Callable[[jax.Array], PyTree]


def convert(
    source: str | Path,
    target: str | Path,
    *,
    text_encoder: str | Path | None = None,
    config: str | Path | None = None,
    drop_unexpected: bool = False,
    replace: bool = False,
) -> Converted:
    """Adds a transformer or a VAE to the snapshot `target`, and what it lacks beside them; or writes a LoRA.

    Args:
      text_encoder: folder of T5 and its tokenizer, which are added as well.
      config: `config.json` of a model that is no release.
      drop_unexpected: leave out unknown names; otherwise they are errors.
      replace: take the place of the same part.

    Raises:
      UserError: it cannot be converted, does not fit the target's other parts, or is there. Numbers that are not
        finite are found while a part is written; the target then lacks that part.
    """
    target, is_file = Path(target), Path(target).suffix == LORA_SUFFIX
    with workspace(target.parent if is_file else target) as scratch:
        checkpoint = open_checkpoint(source, scratch / "unpacked", merge_ranks=_one_rank)
        if is_lora(checkpoint.leaves) != is_file:
            wanted = f"name a {LORA_SUFFIX} file as the target" if not is_file else "the target must be a folder"
            raise ConversionError(f"{source} is {'' if is_lora(checkpoint.leaves) else 'not '}a LoRA; {wanted}")
        if is_file:
            if text_encoder or config:
                raise ConversionError("a LoRA takes neither --text-encoder nor --config; leave them out")
            return Converted([target], write_lora(checkpoint, target, replace=replace))
        texts = t5_files.parts(Path(text_encoder)) if text_encoder else []
        return _convert(checkpoint, target, texts, config=config, drop=drop_unexpected, replace=replace)


def _convert(
    checkpoint: Checkpoint, target: Path, texts: list[Part], *, config: Any, drop: bool, replace: bool
) -> Converted:
    """Everything is checked before the first part is written; the converted part comes last."""
    if any(name.startswith(names.SAT_PREFIX) for name in checkpoint.leaves):
        part, transformer, dropped = _transformer(checkpoint, config, drop)
        notes = [f"{checkpoint.source} is {sizes.released_name(transformer)}"]
    elif any(name.startswith(OF_VAE) for name in checkpoint.leaves):
        transformer = _transformer_of(target)
        (part, dropped), notes = _vae(checkpoint, transformer, config, drop), []
    else:
        some = ", ".join(grouped(checkpoint.leaves)[:3])
        raise ConversionError(
            f"{checkpoint.source} is neither a transformer nor a VAE of SAT; its names are such as {some}"
        )
    if dropped:
        notes.append(f"left out of {part.name}: {', '.join(grouped(dropped))}")
    _require_fitting(target, transformer, part, texts)
    added = [*texts, *([] if (target / SCHEDULER).exists() else [_scheduler(transformer)]), part]
    require_free_parts(target, added, replace=replace)
    require_space(target, sum(one.nbytes for one in added), f"writing to {target}")
    paths = [target / INDEX] if not (target / INDEX).exists() else []
    for path in paths:
        write_bytes(path, json_bytes(index_file(sizes.pipeline_class(transformer))))
    return Converted([*paths, *write_parts(target, added, replace=replace)], notes)


def _transformer(
    checkpoint: Checkpoint, given: str | Path | None, drop: bool
) -> tuple[Part, TransformerConfig, list[str]]:
    if given:
        config = read_json(given, TransformerConfig)
    else:
        config = sizes.transformer_config(checkpoint.leaves, source=checkpoint.source)
    model = Transformer(config, kernel=Kernel.PLAIN)  # the one that is traced fastest; only shapes are asked for

    def init(rng: jax.Array) -> PyTree:
        return model.init(rng, *model.empty_inputs(), **model.empty_options())["params"]

    kind = Kind(TRANSFORMER, names.SAT_PREFIX, names.TRANSFORMER_DROPPED, names.transformer_source, init)
    part, dropped = _part(checkpoint, kind, sizes.transformer_file(config), drop)
    return part, config, dropped


def _vae(
    checkpoint: Checkpoint, transformer: TransformerConfig, given: str | Path | None, drop: bool
) -> tuple[Part, list[str]]:
    if given:
        config = read_json(given, VaeConfig)
    else:
        config = sizes.vae_config(checkpoint.leaves, transformer, source=checkpoint.source)
    if config.latent_channels != transformer.out_channels:
        raise ConversionError(
            f"{checkpoint.source} makes latents of {config.latent_channels} channels, but the transformer in the "
            f"target writes {transformer.out_channels}"
        )
    levels, side = len(config.block_out_channels), config.spatial_ratio

    def source(name: str) -> names.Source:
        return names.vae_source(name, levels=levels)

    def init(rng: jax.Array) -> PyTree:
        return Vae(config).init(rng, jnp.zeros((1, 1, side, side, config.in_channels)))["params"]

    return _part(checkpoint, Kind(VAE, "", names.VAE_DROPPED, source, init), sizes.vae_file(config), drop)


def _part(checkpoint: Checkpoint, kind: Kind, config: Mapping[str, Any], drop: bool) -> tuple[Part, list[str]]:
    """A part, and names that it leaves out. Raises ConversionError if names, shapes or types do not fit."""
    with conversion_errors(f"{checkpoint.source} is not a {kind.part} of CogVideoX: its sizes do not fit together"):
        module = flatten_dict(nn.unbox(jax.eval_shape(lambda: kind.init(jax.random.key(0)))), sep="/")
    table = names.sources(map(torch_name, module), kind.source)
    whole = {name: kind.prefix + one.name for name, one in table.items() if one.of == 1}
    found = {name: checkpoint.leaves[sat] for name, sat in whole.items() if sat in checkpoint.leaves}
    shapes = {torch_name(path): torch_shape(path, leaf.shape, found) for path, leaf in module.items()}
    dropped = _check(checkpoint, names.sat_shapes(shapes, table), kind, drop)

    def read(name: str) -> np.ndarray:
        sat = kind.prefix + table[name].name
        tensor = names.rows(checkpoint.read(sat), table[name])
        return require_finite(tensor, name=sat, path=checkpoint.source)

    leaves = {
        name: Leaf(checkpoint.leaves[kind.prefix + table[name].name].dtype, shape) for name, shape in shapes.items()
    }
    return Part(kind.part, {CONFIG: json_bytes(config)}, leaves, read), dropped


def _check(checkpoint: Checkpoint, shapes: Mapping[str, tuple[int, ...]], kind: Kind, drop: bool) -> list[str]:
    """Names that are left out. Raises ConversionError for every fault."""
    expected = {kind.prefix + name: shape for name, shape in shapes.items()}
    unexpected = checkpoint.leaves.keys() - expected.keys()
    dropped = {name for name in unexpected if drop or kind.dropped.fullmatch(name.removeprefix(kind.prefix))}
    kept = {name: leaf for name, leaf in checkpoint.leaves.items() if name not in dropped}
    check_leaves(kept, expected, source=checkpoint.source)
    return sorted(dropped)


def _one_rank(ranks: list[Rank], source: Path) -> Rank:
    """Raises ConversionError for a model-parallel save, which CogVideoX never is."""
    if len(ranks) > 1:
        raise ConversionError(f"{source} is a model-parallel save of {len(ranks)} files; CogVideoX is saved as one")
    return ranks[0]


# The target -----------------------------------------------------------------------------------------


def _transformer_of(target: Path) -> TransformerConfig:
    if not (target / TRANSFORMER / CONFIG).exists():
        raise ConversionError(
            f"{target} has no transformer yet, which tells how latents are scaled; convert that first, then the VAE"
        )
    return read_transformer(target)


def _scheduler(transformer: TransformerConfig) -> Part:
    return Part(SCHEDULER, {SCHEDULER_CONFIG: json_bytes(sizes.scheduler_file(transformer))})


def _require_fitting(target: Path, transformer: TransformerConfig, part: Part, texts: list[Part]) -> None:
    """Raises ConversionError if what the target has is of another variant than the transformer."""
    index, scheduler = target / INDEX, target / SCHEDULER / SCHEDULER_CONFIG
    if index.exists() and (read_task(target) == FROM_IMAGE) != sizes.reads_image(transformer):
        raise _misfit(index)
    if scheduler.exists() and read_json(scheduler, SchedulerConfig) != sizes.scheduler_config(transformer):
        raise _misfit(scheduler)
    path = target / VAE / CONFIG
    if part.name != VAE and path.exists():
        vae = read_vae(target)
        scaling = dict(scaling_factor=vae.scaling_factor, invert_scale_latents=vae.invert_scale_latents)
        if scaling != sizes.latent_scaling(transformer):
            raise _misfit(path)
    t5_files.require_width(target / TEXT / CONFIG, texts, transformer.text_embed_dim)


def _misfit(path: Path) -> ConversionError:
    return ConversionError(f"{path} is of another variant of CogVideoX; choose another target")
