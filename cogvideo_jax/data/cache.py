"""Run once before training: clips -> token ids on disk, so that training never sees a pixel.

Every clip is encoded at the top frame rate; lower rates are taken from its ids later (examples.py). What lies on disk
stands in `cache_format.py`.
"""

import contextlib
import hashlib
import math
import os
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from absl import logging
from array_record.python.array_record_data_source import ArrayRecordDataSource
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from cogvideo_jax.data import frame_rate
from cogvideo_jax.data.cache_format import (
    META,
    PLAN,
    Meta,
    Plan,
    ShardNotes,
    TokenClip,
    pack,
    shard_notes,
    shard_path,
    unpack,
    write_json,
)
from cogvideo_jax.data.clips import Clip, ClipSource
from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Int, UInt8
from cogvideo_jax.runtime.schemas import check, read_json

Encode = Callable[[UInt8[np.ndarray, "T H W 3"]], Int[np.ndarray, "T N"]]


# Writing ---------------------------------------------------------------------------------------------


def write_token_cache(
    source: ClipSource,
    encode: Encode,
    out: str | Path,
    *,
    fingerprint: str,
    top_fps: float = 8.0,
    clips_per_shard: int = 256,
    frames_per_call: int = 256,
    coarse_size: int | None = None,
    worker: tuple[int, int] = (0, 1),
) -> "TokenCache | None":
    """Encodes the clips of the source and returns the finished cache, or None while other workers have not finished.

    Whole shards of an interrupted run are kept; damaged clips are skipped, counted and named in meta.json.

    Args:
      source: the clips.
      encode: uint8 frames -> ids; always called with exactly `frames_per_call` frames, so it compiles once.
      out: folder of the cache.
      fingerprint: names the tokenizer; a cache of one tokenizer is refused by another.
      top_fps: frames/s of the cache; clips of a higher rate are thinned out.
      clips_per_shard: rows of the source to a file.
      frames_per_call: frames of one call of `encode`.
      coarse_size: also keep the ids of the frames made smaller, this many pixels a side: what super-resolution reads.
      worker: (index, count) of the workers that share the shards among them, each in a process of its own, on one host
        or on several that see the folder. The last to finish joins what all wrote.
    Raises:
      UserError: the folder holds a cache of other settings, no clip could be used, or there is no such worker.
    """
    if not 0 <= worker[0] < worker[1]:
        raise UserError(f"worker {worker[0]} of {worker[1]}: workers are counted from 0")
    out = Path(out)
    asked = dict(fingerprint=fingerprint, top_fps=top_fps, clips_per_shard=clips_per_shard, coarse_size=coarse_size)
    plan = check(asked | {"rows": len(source), "source": _digest(source)}, Plan, where="the plan of a token cache")
    _agree_on(plan, out)
    if (out / META).exists():
        return TokenCache(out, fingerprint)
    starts = range(0, len(source), clips_per_shard)
    shards = [range(start, min(start + clips_per_shard, len(source))) for start in starts]
    index, count = worker
    with tqdm(total=sum(map(len, shards[index::count])), unit="clip", desc="tokenize", disable=None) as bar:
        for shard in range(index, len(shards), count):
            if not shard_notes(out, shard).exists():
                clips = _readable(source, shards[shard], top_fps=top_fps)
                encoded = _encoded(clips, encode, frames_per_call=frames_per_call, coarse_size=coarse_size)
                _write_shard(out, shard, encoded, source=source, rows=shards[shard])
            bar.update(len(shards[shard]))
            logging.info("tokenized shard %d of %d", shard + 1, len(shards))
    missing = [shard for shard in range(len(shards)) if not shard_notes(out, shard).exists()]
    if missing:
        logging.info("%d shards are left to other workers", len(missing))
        return None
    _write_meta(out, plan, shards=len(shards), source=source)
    return TokenCache(out, fingerprint)


def _digest(source: ClipSource) -> str:
    names = "\n".join(source.name(row) for row in range(len(source)))
    return hashlib.sha256(names.encode()).hexdigest()[:16]


def _agree_on(plan: Plan, out: Path) -> None:
    """Writes the plan, or checks that the one begun in this folder is the same."""
    begun = out / PLAN
    if begun.exists():
        old = read_json(begun, Plan)
        differing = [key for key, value in plan if getattr(old, key) != value]
        if differing:
            raise UserError(f"{out} holds a token cache with another {', '.join(differing)}; choose a new folder")
    else:
        write_json(begun, plan)


def _readable(source: ClipSource, rows: Iterable[int], *, top_fps: float) -> Iterator[Clip]:
    """The clips of some rows at no more than `top_fps`; damaged ones are noted in source.skipped."""
    for row in rows:
        try:
            clip = source[row]
        except ValueError as error:
            source.skip(source.name(row), str(error))
            continue
        if clip.fps > top_fps:
            count = frame_rate.frames_at_rate(len(clip.frames), clip.fps, rate=top_fps)
            thin = clip.frames[frame_rate.offsets_at_rate(clip.fps, rate=top_fps, frames=count)]
            clip = Clip(thin, top_fps, clip.texts, clip.name)
        yield clip


def _encoded(
    clips: Iterable[Clip], encode: Encode, *, frames_per_call: int, coarse_size: int | None
) -> Iterator[TokenClip]:
    """Encodes several clips in one call: their frames are joined, cut to full calls, the last padded."""
    waiting: list[Clip] = []
    for clip in clips:
        waiting.append(clip)
        if sum(len(clip.frames) for clip in waiting) >= frames_per_call:
            yield from _encode_together(waiting, encode, frames_per_call, coarse_size)
            waiting = []
    if waiting:
        yield from _encode_together(waiting, encode, frames_per_call, coarse_size)


def _encode_together(
    clips: list[Clip], encode: Encode, frames_per_call: int, coarse_size: int | None
) -> Iterator[TokenClip]:
    frames = np.concatenate([clip.frames for clip in clips])
    padded = np.pad(frames, ((0, -len(frames) % frames_per_call), (0, 0), (0, 0), (0, 0)))
    calls = np.split(padded, len(padded) // frames_per_call)
    ends = np.cumsum([len(clip.frames) for clip in clips])[:-1]
    fine = np.split(np.concatenate([np.asarray(encode(part)) for part in calls])[: len(frames)], ends)
    coarse = [None] * len(clips)
    if coarse_size is not None:
        ids = np.concatenate([np.asarray(encode(shrink(part, side=coarse_size))) for part in calls])
        coarse = np.split(ids[: len(frames)], ends)
    for clip, ids, coarse_ids in zip(clips, fine, coarse):
        yield TokenClip(ids, clip.fps, clip.texts, clip.name, coarse_ids)


def shrink(frames: UInt8[np.ndarray, "T H W 3"], *, side: int) -> UInt8[np.ndarray, "T side side 3"]:
    """Square frames made smaller by a whole factor: each pixel is the rounded mean of those that it covers.

    Raises:
      UserError: `side` does not divide the frames' side.
    """
    count, size = frames.shape[:2]
    if side < 1 or size % side:
        raise UserError(f"frames of {size} pixels cannot be made smaller to {side} by a whole factor")
    factor = size // side
    blocks = frames.reshape(count, side, factor, side, factor, 3)
    return np.rint(blocks.mean((2, 4), dtype=np.float32)).astype(np.uint8)


def _write_shard(out: Path, shard: int, encoded: Iterable[TokenClip], *, source: ClipSource, rows: range) -> None:
    path = shard_path(out, shard)
    part = path.with_suffix(".part")
    writer = ArrayRecordWriter(str(part), "group_size:1")
    clips, tokens, coarse_tokens, shortest = 0, 0, None, math.inf
    try:
        for clip in encoded:
            writer.write(pack(clip))
            clips, tokens = clips + 1, clip.frames.shape[1]
            coarse_tokens = None if clip.coarse is None else clip.coarse.shape[1]
            shortest = min(shortest, len(clip.frames) / clip.fps)
    finally:
        writer.close()
    os.replace(part, path)
    names = {source.name(row) for row in rows}
    notes = ShardNotes(
        clips=clips,
        frame_tokens=tokens,
        coarse_tokens=coarse_tokens,
        skipped=tuple(entry for entry in source.skipped if entry[0] in names),
        shortest_seconds=shortest if clips else None,
    )
    write_json(shard_notes(out, shard), notes)


def _write_meta(out: Path, plan: Plan, *, shards: int, source: ClipSource) -> None:
    notes = [read_json(shard_notes(out, shard), ShardNotes) for shard in range(shards)]
    full = [note for note in notes if note.clips]
    damaged = [entry for note in notes for entry in note.skipped]
    unlisted = [entry for entry in source.skipped if entry not in damaged]  # e.g. lines of captions.jsonl
    if not full:
        raise UserError(f"not one clip could be used: {[list(entry) for entry in damaged[:3]]}")
    frame_tokens, coarse_tokens = full[0].frame_tokens, full[0].coarse_tokens
    meta = Meta(
        **dict(plan),
        grid=math.isqrt(frame_tokens),
        frame_tokens=frame_tokens,
        coarse_grid=None if coarse_tokens is None else math.isqrt(coarse_tokens),
        clips=sum(note.clips for note in notes),
        clips_in_shard=tuple(note.clips for note in notes),
        shortest_seconds=min(note.shortest_seconds for note in full),
        skipped=tuple(unlisted + damaged),
    )
    write_json(out / META, meta)


# Reading ---------------------------------------------------------------------------------------------


class TokenCache:
    """Random access to a finished cache: `cache[row]` is a TokenClip."""

    def __init__(self, path: str | Path, fingerprint: str | None = None, *, codes: int | None = None):
        """Opens a cache.

        Args:
          path: folder that `write_token_cache` filled.
          fingerprint: of the tokenizer in use; None takes a cache of any.
          codes: C, of the model that reads the ids; None if there is none.
        Raises:
          UserError: no finished cache there, one of another tokenizer, or one that is damaged.
        """
        self.path, self.codes = Path(path), codes
        if not (self.path / META).exists():
            raise UserError(f"{self.path} holds no finished token cache: run `cogvideo tokenize` to the end")
        self.meta = read_json(self.path / META, Meta)
        if fingerprint is not None and fingerprint != self.meta.fingerprint:
            made_by = self.meta.fingerprint
            raise UserError(f"{self.path} was made by tokenizer {made_by}, not by {fingerprint}: tokenize again")
        shards = [shard_path(self.path, shard) for shard, clips in enumerate(self.meta.clips_in_shard) if clips]
        missing = [shard.name for shard in shards if not shard.is_file()]
        if missing:
            raise UserError(f"{self.path} lacks {missing[0]} and {len(missing) - 1} more: tokenize again")
        with self._damage():
            self._records = ArrayRecordDataSource([str(shard) for shard in shards])
            found = len(self._records)
        if found != len(self):
            raise UserError(f"{self.path} has {found} records, but {META} says {len(self)}: tokenize again")

    @property
    def fingerprint(self) -> str:
        """The tokenizer that made it."""
        return self.meta.fingerprint

    @property
    def grid(self) -> int:
        """h = w of the token grid."""
        return self.meta.grid

    @property
    def coarse_grid(self) -> int | None:
        """h = w of the smaller frames' token grid; None in a cache without them."""
        return self.meta.coarse_grid

    def __len__(self) -> int:
        return self.meta.clips

    def __getitem__(self, row: int) -> TokenClip:
        with self._damage():
            record = self._records[row]
        grids = dict(grid=self.grid, coarse_grid=self.coarse_grid)
        return unpack(record, **grids, codes=self.codes, where=f"record {row} of {self.path}")

    @contextlib.contextmanager
    def _damage(self) -> Iterator[None]:
        """Turns what ArrayRecord says of damaged files into a sentence."""
        try:
            yield
        except (RuntimeError, OSError) as error:
            reason = str(error).partition(";")[0] or "it is cut short"
            raise UserError(f"{self.path} is damaged ({reason[:200]}): tokenize again") from error
