"""What a token cache has on disk, and the schemas that everything read back from it passes.

cache/
  plan.json                     settings; a second run must agree with them
  shard-00000.array_record      records: msgpack of {frames [T, N], coarse [T, n] if asked for, texts, fps, name}
  shard-00000.json              digests of the shard and of its sources, and what was skipped
  meta.json                     written at the very end: the plan, and what the shards say together
"""

import itertools
import math
import re
from collections.abc import Sequence
from pathlib import Path
from typing import Annotated, Any, NamedTuple

import numpy as np
from flax import serialization
from pydantic import Field, ValidationError, model_validator

from cogvideo_jax.data import frame_rate
from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Int
from cogvideo_jax.runtime.files import write_text
from cogvideo_jax.runtime.schemas import (
    Digest,
    FrameRate,
    NotNegative,
    Positive,
    PositiveFloat,
    Schema,
    Size,
    Text,
    read_json,
    sentence,
    shown,
)

PLAN, META = "plan.json", "meta.json"
TYPES = ("uint16", "int32")  # of ids in a record
Skipped = tuple[tuple[str, str], ...]  # (name, reason)


class TokenClip(NamedTuple):
    """One video as ids."""

    frames: Int[np.ndarray, "T N"]  # image codes of every frame, int32
    fps: float  # frames/s
    texts: tuple[str, ...]  # captions
    name: str
    coarse: Int[np.ndarray, "T n"] | None = None  # codes of the same frames made smaller, for super-resolution


class Plan(Schema):
    """Settings of a cache; its fields are arguments of `write_token_cache`.

    Attributes:
      source: settings of the clips' source.
    """

    fingerprint: Annotated[str, Field(min_length=1, max_length=100)]
    top_fps: FrameRate
    clips_per_shard: Positive
    source: dict[str, str]
    coarse_size: Size | None = None


class ShardNotes(Schema):
    """What one shard holds; sizes of no clip at all are 0 or None.

    Attributes:
      sources: digest of what it was made from: names, sizes, times of change and captions.
      digest: of its file.
    """

    clips: NotNegative
    frame_tokens: NotNegative
    coarse_tokens: Size | None = None
    skipped: Skipped
    shortest_seconds: PositiveFloat | None
    sources: Digest
    digest: Digest

    @model_validator(mode="after")
    def _clips_have_sizes(self) -> "ShardNotes":
        if self.clips and (not self.frame_tokens or self.shortest_seconds is None):
            raise ValueError(f"{self.clips} clips must have frame_tokens and shortest_seconds")
        return self


class Meta(Plan):
    """A finished cache."""

    grid: Size
    frame_tokens: Size
    coarse_grid: Size | None = None
    clips: Positive
    clips_in_shard: tuple[NotNegative, ...]
    digests: tuple[Digest, ...]
    shortest_seconds: PositiveFloat
    skipped: Skipped

    @model_validator(mode="after")
    def _numbers_agree(self) -> "Meta":
        if self.grid**2 != self.frame_tokens:
            raise ValueError(f"a grid of {self.grid} has not {self.frame_tokens} frame_tokens")
        if sum(self.clips_in_shard) != self.clips:
            raise ValueError(f"clips_in_shard add up to {sum(self.clips_in_shard)}, not to clips, {self.clips}")
        return self


def join(plan: Plan, notes: Sequence[ShardNotes], skipped: Skipped) -> Meta:
    """What the shards of a plan say together.

    Args:
      skipped: rows that never became clips, such as damaged lines of captions.jsonl.

    Raises:
      UserError: the shards have no clip, or clips of different sizes.
    """
    full = [note for note in notes if note.clips]
    damaged = [entry for note in notes for entry in note.skipped]
    if not full:
        raise UserError(f"not one clip could be used: {[list(entry) for entry in damaged[:3]]}")
    if len({(note.frame_tokens, note.coarse_tokens) for note in full}) > 1:
        raise UserError("the shards have clips of different token grids: tokenize again with --force")
    known, frame_tokens, coarse_tokens = set(damaged), full[0].frame_tokens, full[0].coarse_tokens
    return Meta(
        **dict(plan),
        grid=math.isqrt(frame_tokens),
        frame_tokens=frame_tokens,
        coarse_grid=None if coarse_tokens is None else math.isqrt(coarse_tokens),
        clips=sum(note.clips for note in notes),
        clips_in_shard=tuple(note.clips for note in notes),
        digests=tuple(note.digest for note in notes),
        shortest_seconds=min(note.shortest_seconds for note in full),
        skipped=tuple([entry for entry in skipped if entry not in known] + damaged),
    )


def read_meta(folder: Path) -> Meta:
    """meta.json of a finished cache. Raises UserError if it is damaged, or says anything else than the shards."""
    meta = read_json(folder / META, Meta)
    told = join(read_json(folder / PLAN, Plan), read_notes(folder), ())
    differing = [name for name, value in told if name != "skipped" and getattr(meta, name) != value]
    if differing:
        said = f"{differing[0]} {shown(getattr(meta, differing[0]))}, its shards {shown(getattr(told, differing[0]))}"
        raise UserError(f"{folder / META} says {said}: run `cogvideo tokenize` again")
    return meta


def read_notes(folder: Path) -> list[ShardNotes]:
    """Notes of all shards, the first missing one ends them. Raises UserError if one is damaged."""
    paths = (shard_notes(folder, shard) for shard in itertools.count())
    return [read_json(path, ShardNotes) for path in itertools.takewhile(Path.exists, paths)]


class _Record(Schema):
    """A clip as it is packed; the arrays are checked by themselves."""

    frames: np.ndarray
    coarse: np.ndarray | None = None
    texts: Annotated[list[Text], Field(min_length=1)]
    fps: FrameRate
    name: str


def shard_path(out: Path, shard: int) -> Path:
    return out / f"shard-{shard:05d}.array_record"


def shard_notes(out: Path, shard: int) -> Path:
    return out / f"shard-{shard:05d}.json"


def shard_number(path: Path) -> int | None:
    """Number of the shard that a file belongs to; None if it is no part of one."""
    match = re.fullmatch(r"shard-(\d{5,9})\.(array_record|json)", path.name, re.ASCII)
    return int(match[1]) if match else None


def write_json(path: Path, value: Schema, *, replace: bool = True) -> None:
    """Writes a description."""
    write_text(path, value.model_dump_json(indent=1), replace=replace)


def pack(clip: TokenClip) -> bytes:
    """A clip as a record."""
    record = {"frames": _smallest(clip.frames), "texts": list(clip.texts), "fps": float(clip.fps), "name": clip.name}
    coarse = {} if clip.coarse is None else {"coarse": _smallest(clip.coarse)}
    return serialization.msgpack_serialize(record | coarse)


def _smallest(ids: Int[np.ndarray, "T N"]) -> np.ndarray:
    """The ids in 16 bits if they fit."""
    fits = ids.min(initial=0) >= 0 and ids.max(initial=0) <= np.iinfo(np.uint16).max
    return ids.astype(np.uint16 if fits else np.int32)


def unpack(
    record: bytes,
    *,
    grid: int,
    coarse_grid: int | None,
    codes: int | None,
    where: str,
    top_fps: float = math.inf,
) -> TokenClip:
    """The clip of a record.

    Args:
      grid, coarse_grid: h = w of the token grids that the cache has.
      codes: C; ids must lie below it. None if it is not known.
      where: names the record in errors.
      top_fps: frames/s of the cache.

    Raises:
      UserError: the record is damaged, or says something that no clip of this cache can be.
    """
    try:
        values = serialization.msgpack_restore(record)
    except Exception as error:  # msgpack raises many kinds on damaged bytes
        raise UserError(f"{where} is damaged") from error
    clip = _checked(values, where)
    frames = _ids(clip.frames, tokens=grid**2, codes=codes, where=f"{where}: frames")
    if clip.fps > top_fps * (1 + frame_rate.ROUNDING):
        raise UserError(f"{where}: fps is {clip.fps}, in a cache of {top_fps} frames a second")
    if (clip.coarse is None) != (coarse_grid is None):
        raise UserError(f"{where}: coarse ids should {'not ' if coarse_grid is None else ''}be there")
    coarse = None
    if coarse_grid is not None:
        coarse = _ids(clip.coarse, tokens=coarse_grid**2, codes=codes, where=f"{where}: coarse")
        if len(coarse) != len(frames):
            raise UserError(f"{where}: coarse has {len(coarse)} frames, and frames {len(frames)}")
    return TokenClip(frames, clip.fps, tuple(clip.texts), clip.name, coarse)


def _checked(values: Any, where: str) -> _Record:
    try:
        return _Record.model_validate(values)
    except ValidationError as error:
        raise UserError(sentence(error, where)) from error


def _ids(array: np.ndarray, *, tokens: int, codes: int | None, where: str) -> Int[np.ndarray, "T N"]:
    if array.dtype.name not in TYPES or array.ndim != 2 or array.shape[1] != tokens or not len(array):
        raise UserError(f"{where} are {array.dtype} {list(array.shape)}; expected {' or '.join(TYPES)} [T, {tokens}]")
    low, high = int(array.min()), int(array.max())
    if low < 0 or high >= (codes or math.inf):
        allowed = "0 or more" if codes is None else f"0..{codes - 1}"
        raise UserError(f"{where} has ids {low}..{high}; they should be {allowed}")
    return array.astype(np.int32)
