"""Converts an official checkpoint to a part of a folder of weights, one official array in memory at a time.

In: a SAT folder, its zip, a .pt or a safetensors file. Out: PART.safetensors in the types of the source, so that the
way back (to_official) is bit-exact. Parts hold only what they add to the base, which is stored once:

    base.safetensors         written by the first stage or base that is converted
    PART_base.safetensors    if a part's own base differs from that one, even in a single bit
"""

import dataclasses
import functools
import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cogvideo_jax.convert.check import check_leaves, check_one_type, grouped
from cogvideo_jax.convert.checkpoint_files import Checkpoint, open_checkpoint
from cogvideo_jax.convert.workspace import workspace
from cogvideo_jax.errors import ConversionError, conversion_errors
from cogvideo_jax.models.cogvideo.convert import vq_names
from cogvideo_jax.models.cogvideo.convert.model_parallel import merge_ranks
from cogvideo_jax.models.cogvideo.convert.parts import STAGES, Part, find_part, table_of
from cogvideo_jax.models.cogvideo.convert.settings import checked_settings
from cogvideo_jax.models.cogvideo.convert.sizes import read_config
from cogvideo_jax.models.cogvideo.convert.transformer_names import names_of, official_shapes, our_shape, to_our_layout
from cogvideo_jax.models.cogvideo.convert.vq_sizes import vq_sizes
from cogvideo_jax.models.cogvideo.descriptions import OWN_BASE, read_part
from cogvideo_jax.models.cogvideo.layout import base_layout
from cogvideo_jax.models.cogvideo.sampling_config import FILE, RELEASED, read_sampling_config, write_sampling_config
from cogvideo_jax.models.cogvideo.transformer.transformer import is_attention_plus
from cogvideo_jax.models.cogvideo.vq.tokenizer import load_tokenizer
from cogvideo_jax.runtime.digests import forget_digests, note_digests, read_digests
from cogvideo_jax.runtime.files import require_free, require_space
from cogvideo_jax.runtime.progress import progress_bar
from cogvideo_jax.runtime.safetensors_stream import Leaf, as_bytes, read_header, read_leaf, write_stream
from cogvideo_jax.runtime.weights import read_description

COMPARED = 16 << 20  # bytes of two bases compared at a time


class Plan(NamedTuple):
    """One of our files, before it is written.

    Attributes:
      leaves: path "a/b/c" -> type and shape.
      chunks: path -> its data, one layer at a time.
      description: metadata of the file.
      dropped: official names that it leaves out.
    """

    leaves: dict[str, Leaf]
    chunks: Callable[[str], Iterator[np.ndarray]]
    description: dict
    dropped: list[str]

    def only(self, keep: Callable[[tuple[str, ...]], bool], **description) -> "Plan":
        """Plan of another file with some of the leaves and a changed description."""
        leaves = {name: leaf for name, leaf in self.leaves.items() if keep(tuple(name.split("/")))}
        return self._replace(leaves=leaves, description=self.description | description)


class Converted(NamedTuple):
    """Written files, and notes for the user."""

    files: list[Path]
    notes: list[str]


def convert(
    source: str | Path,
    target: str | Path,
    *,
    part: str | None = None,
    heads: int | None = None,
    drop_unexpected: bool = False,
    replace: bool = False,
) -> Converted:
    """Adds a checkpoint to the folder of weights `target`, and the released sampling config if it has none.

    Args:
      part: needed if names, settings and the source's own name leave it open.
      heads: attention heads; needed if they are not 64 wide and there is no `model_config.json`.
      drop_unexpected: leave out unknown names, as the official loader does; otherwise they are errors.
      replace: take the place of the same part.

    Raises:
      UserError: it cannot be converted, or the target has the part; the target is then unchanged.
    """
    target = Path(target)
    if heads is not None and heads < 1:
        raise ConversionError(f"a model has at least one attention head, not {heads} (--heads)")
    with workspace(target) as scratch:
        read_digests(target)  # a damaged list is refused before the work
        checkpoint = open_checkpoint(source, scratch / "unpacked", merge_ranks=merge_ranks)
        checkpoint = dataclasses.replace(checkpoint, settings=checked_settings(checkpoint.settings, checkpoint.source))
        part = find_part(checkpoint, None if part is None else Part(part))
        _require_free(target, part, replace=replace)
        plan = _plan(checkpoint, part, heads=heads, drop_unexpected=drop_unexpected)
        if part != Part.TOKENIZER:
            plan.description["tokenizer"] = _fingerprint(target)
        files, notes = _as_files(plan, part, target)
        if plan.dropped:
            notes.append(f"left out of {part}: {', '.join(grouped(plan.dropped))}")
        lacking = {name: one for name, one in files.items() if replace or not _is_written(one, target / name)}
        for name in lacking:
            require_free(target / name, replace=replace)
        _write(lacking, target, scratch)
        _place(list(files), target, scratch, replace=replace)
        return Converted([target / name for name in files], notes)


def _require_free(target: Path, part: Part, *, replace: bool) -> None:
    """Raises UserError if a target has this part, a base that others stand on, or an unusable sampling config."""
    if os.path.lexists(target / FILE):  # without it, a kill came before the last conversion was done
        require_free(target / f"{part}.safetensors", replace=replace)
        read_sampling_config(target / FILE)
    standing = [other for other in Part if _stands_on_base(target, other)]
    if replace and part == Part.BASE and standing:
        raise ConversionError(f"{standing[0]} in {target} stands on its base; choose another target")


def _stands_on_base(target: Path, part: Part) -> bool:
    path = target / f"{part}.safetensors"
    return part not in (Part.BASE, Part.TOKENIZER) and path.exists() and not read_part(path, part)[1].own_base


def _plan(checkpoint: Checkpoint, part: Part, *, heads: int | None, drop_unexpected: bool) -> Plan:
    """Plan of one file with the whole checkpoint; reads no data yet.

    Raises:
      ConversionError: names, shapes or types do not fit.
    """
    if part == Part.TOKENIZER:
        return _plan_tokenizer(checkpoint, drop_unexpected)
    config, table = read_config(checkpoint, part, heads=heads), table_of(part)
    dropped = _check(checkpoint, official_shapes(config, table), drop_unexpected)
    leaves, rules = {}, {"/".join(path): rule for path, rule in table.items()}
    for name, rule in rules.items():
        official = names_of(rule, config.layers)
        check_one_type(checkpoint.leaves, official, source=checkpoint.source)
        leaves[name] = Leaf(checkpoint.leaves[official[0]].dtype, our_shape(rule, config))

    def chunks(name: str) -> Iterator[np.ndarray]:
        for official in names_of(rules[name], config.layers):
            yield to_our_layout(checkpoint.read(official), rules[name].kind, config)

    return Plan(leaves, chunks, {"kind": str(part), "config": dataclasses.asdict(config)}, dropped)


def _plan_tokenizer(checkpoint: Checkpoint, drop_unexpected: bool) -> Plan:
    with conversion_errors(f"{checkpoint.source} is not an image tokenizer; its layers do not fit together"):
        shapes = {name: leaf.shape for name, leaf in checkpoint.leaves.items()}
        config = checkpoint.settings.get("tokenizer") or vq_sizes(shapes)
        table = vq_names.name_table(config)
    expected = {name: vq_names.official_shape(place) for name, place in table.items()}
    dropped = _check(checkpoint, expected, drop_unexpected)
    places = {"/".join(place.path): (name, place) for name, place in table.items()}
    leaves = {ours: Leaf(checkpoint.leaves[name].dtype, place.shape) for ours, (name, place) in places.items()}

    def chunks(ours: str) -> Iterator[np.ndarray]:
        name, place = places[ours]
        yield vq_names.to_our_layout(checkpoint.read(name), place)

    return Plan(leaves, chunks, {"kind": str(Part.TOKENIZER), "config": dataclasses.asdict(config)}, dropped)


def _check(checkpoint: Checkpoint, expected: dict[str, tuple[int, ...]], drop_unexpected: bool) -> list[str]:
    """Unexpected names, if they may be dropped. Raises ConversionError for every other fault."""
    found = checkpoint.leaves
    if drop_unexpected:
        found = {name: leaf for name, leaf in found.items() if name in expected}
    check_leaves(found, expected, source=checkpoint.source)
    return sorted(checkpoint.leaves.keys() - found.keys())


def _fingerprint(target: Path) -> str | None:
    """Fingerprint of the target's tokenizer; None if there is none yet."""
    path = target / f"{Part.TOKENIZER}.safetensors"
    return load_tokenizer(path).fingerprint if path.exists() else None


def _as_files(plan: Plan, part: Part, target: Path) -> tuple[dict[str, Plan], list[str]]:
    """Plans by file name, the base first, and notes about the base."""
    name = f"{part}.safetensors"
    if part in (Part.BASE, Part.TOKENIZER):
        return {name: plan}, []
    shared, own = target / "base.safetensors", f"{part}{OWN_BASE}.safetensors"
    base = plan.only(lambda path: not is_attention_plus(path), kind=part + OWN_BASE)
    if part in STAGES and not shared.exists():
        return {shared.name: _as_base(base), name: plan.only(is_attention_plus, own_base=False)}, []
    if _has_weights_of(base, shared):
        notes = [f"the base of {part} is equal to {shared} and shared with it"]
        return {name: plan.only(is_attention_plus, own_base=False)}, notes
    why = f"differs from {shared}" if shared.exists() else f"has no {shared} to be shared with"
    files = {own: base, name: plan.only(is_attention_plus, own_base=True)}
    return files, [f"the base of {part} {why}, so it is stored beside it as {own}"]


def _as_base(plan: Plan) -> Plan:
    """Plan of `base.safetensors` from a stage's base."""
    config = plan.description["config"]
    layout = base_layout(text_length=config["layout"]["text_length"], grid=config["layout"]["grid"])
    config = config | {"layout": dataclasses.asdict(layout), "temporal": False, "extra_positions": 0, "window": None}
    return plan._replace(description=plan.description | {"kind": str(Part.BASE), "config": config})


def _is_written(plan: Plan, path: Path) -> bool:
    """True if one of our files is what a plan would write."""
    return _has_weights_of(plan, path) and read_description(path)[1] == json.loads(json.dumps(plan.description))


def _has_weights_of(plan: Plan, path: Path) -> bool:
    """True if one of our files is there, and equal to a plan bit for bit."""
    if not path.exists():
        return False
    leaves, _ = read_header(path)
    return leaves == plan.leaves and all(
        _same_bits(plan.chunks(name), path, name, leaf) for name, leaf in leaves.items()
    )


def _same_bits(chunks: Iterator[np.ndarray], path: Path, name: str, leaf: Leaf) -> bool:
    """Compares bytes, so that NaN equals itself and -0 differs from 0."""
    step = max(1, COMPARED // max(1, leaf.nbytes // leaf.shape[0]))
    row = 0
    for chunk in chunks:
        rows = chunk if chunk.ndim == len(leaf.shape) else chunk[None]
        for start in range(0, len(rows), step):
            ours = read_leaf(path, name, slice(row + start, row + min(start + step, len(rows))))
            if not np.array_equal(as_bytes(rows[start : start + step]), as_bytes(ours)):
                return False
        row += len(rows)
    return True


def _write(files: dict[str, Plan], target: Path, scratch: Path) -> None:
    """Writes all files aside."""
    size = sum(leaf.nbytes for plan in files.values() for leaf in plan.leaves.values())
    require_space(target, size, f"writing to {target}")
    with progress_bar(total=size, unit="B", unit_scale=True, desc="converting") as bar:
        for name, plan in files.items():
            chunks = functools.partial(_counted, plan.chunks, bar)
            metadata = {"description": json.dumps(plan.description)}
            write_stream(scratch / name, plan.leaves, chunks=chunks, metadata=metadata)
    if not os.path.lexists(target / FILE):
        write_sampling_config(scratch / FILE, RELEASED)


def _place(names: list[str], target: Path, scratch: Path, *, replace: bool) -> None:
    """Renames what was written, the part last, so that it never is without its base and its sampling config."""
    *bases, part = names
    own = target / part.replace(".", f"{OWN_BASE}.")
    written = [name for name in (*bases, FILE, part) if (scratch / name).exists()]
    forget_digests(target, [*written, part, own.name] if replace else written)
    if replace:
        (target / part).unlink(missing_ok=True)  # it may stand on a base that is replaced now
        if own.name not in bases:
            own.unlink(missing_ok=True)
    for name in written:
        if name == written[-1]:
            note_digests(target, last=scratch / name)
        (scratch / name).replace(target / name)


def _counted(chunks: Callable[[str], Iterator[np.ndarray]], bar: Any, name: str) -> Iterator[np.ndarray]:
    for chunk in chunks(name):
        yield chunk
        bar.update(chunk.nbytes)
