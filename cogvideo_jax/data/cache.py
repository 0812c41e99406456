"""Run once before training: clips -> token ids on disk, so that training never sees a pixel.

Every clip is encoded at the top frame rate; lower rates are taken from its ids later (examples.py). What lies on disk
stands in `cache_format.py`.
"""

import contextlib
import hashlib
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path

import numpy as np
from absl import logging
from array_record.python.array_record_module import ArrayRecordWriter
from tqdm import tqdm

from cogvideo_jax.data import frame_rate
from cogvideo_jax.data.cache_format import (
    META,
    PLAN,
    Plan,
    ShardNotes,
    TokenClip,
    join,
    pack,
    read_meta,
    read_notes,
    shard_notes,
    shard_number,
    shard_path,
    write_json,
)
from cogvideo_jax.data.clips import Clip, ClipSource
from cogvideo_jax.data.token_cache import TokenCache
from cogvideo_jax.errors import Busy, UserError
from cogvideo_jax.notation import Int, UInt8
from cogvideo_jax.runtime.files import file_digest, reason, whole_file
from cogvideo_jax.runtime.schemas import check, read_json

PAUSE = 0.05  # seconds until a look at what another process is writing
Encode = Callable[[UInt8[np.ndarray, "T H W 3"]], Int[np.ndarray, "T N"]]


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
    replace: bool = False,
) -> TokenCache | None:
    """Encodes the clips of the source and returns the finished cache, or None while other processes have not finished.

    Shards of an earlier run are kept, unless they are damaged or their videos or captions have changed. Damaged clips
    are skipped, counted and named in meta.json.

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
      replace: take the place of a cache of other settings.
    Raises:
      UserError: the folder holds a cache of other settings, no clip could be used, videos vanish, the disk is full, or
        there is no such worker.
    """
    if not 0 <= worker[0] < worker[1]:
        raise UserError(f"worker {worker[0]} of {worker[1]}: workers are counted from 0")
    out = Path(out)
    asked = dict(fingerprint=fingerprint, top_fps=top_fps, clips_per_shard=clips_per_shard, coarse_size=coarse_size)
    plan = check(asked | {"source": source.settings}, Plan, where="the plan of a token cache")
    _agree_on(plan, out, replace=replace)
    starts = range(0, len(source), clips_per_shard)
    shards = [range(start, min(start + clips_per_shard, len(source))) for start in starts]
    index, count = worker
    with tqdm(total=sum(map(len, shards[index::count])), unit="clip", desc="tokenize", disable=None) as bar:
        for shard in range(index, len(shards), count):
            if _must_be_made(out, shard, _digest(plan, source, shards[shard])):
                clips = _readable(source, shards[shard], top_fps=top_fps)
                encoded = _encoded(clips, encode, frames_per_call=frames_per_call, coarse_size=coarse_size)
                _write_shard(out, shard, encoded, plan=plan, source=source, rows=shards[shard])
            bar.update(len(shards[shard]))
            logging.info("tokenized shard %d of %d", shard + 1, len(shards))
    missing = [shard for shard, rows in enumerate(shards) if not _is_made(out, shard, _digest(plan, source, rows))]
    if missing:
        logging.info("%d shards are left to other workers", len(missing))
        return None
    return _join(out, plan, shards=len(shards), source=source)


def _agree_on(plan: Plan, out: Path, *, replace: bool) -> None:
    """Writes the plan, or checks that the one begun in this folder is the same; else removes that cache, or refuses."""
    begun = out / PLAN
    while not begun.exists():
        try:
            return write_json(begun, plan, replace=False)
        except UserError as error:
            if not isinstance(error, Busy) and not begun.exists():
                raise
        time.sleep(PAUSE)  # another worker begins, too
    try:
        now, before = _flat(plan), _flat(read_json(begun, Plan))
        differing = [key for key in now | before if now.get(key) != before.get(key)]
    except UserError as error:
        if not replace:
            raise UserError(f"{error}; choose a new folder, or pass --force to make the cache anew") from error
        differing = [PLAN]
    if differing and not replace:
        raise UserError(
            f"{out} holds a token cache with another {', '.join(differing)}; choose a new folder, or pass --force to "
            "make it anew"
        )
    if differing:
        _remove_shards(out, first=0)
        write_json(begun, plan)


def _flat(plan: Plan) -> dict[str, object]:
    values = dict(plan)
    return values | {f"source.{key}": value for key, value in values.pop("source").items()}


def _remove_shards(out: Path, *, first: int) -> None:
    """Removes the shards from `first` on, and says so."""
    for path in sorted(out.glob("shard-*")):
        if shard_number(path) is None or shard_number(path) < first:
            continue
        (out / META).unlink(missing_ok=True)
        logging.warning("removed %s, which is no part of this cache", path)
        path.unlink()


def _digest(plan: Plan, source: ClipSource, rows: range) -> str:
    """Of what a shard is made from. Raises UserError if some of it is gone."""
    made_from = json.dumps([plan.model_dump(), [source.stamp(row) for row in rows]])
    return hashlib.sha256(made_from.encode()).hexdigest()[:16]


def digest_of(path: Path) -> str:
    """Of a shard's file, for its notes."""
    return file_digest(path)[:16]


def _is_made(out: Path, shard: int, sources: str) -> bool:
    """Whether a shard has been made of these sources."""
    try:
        return shard_path(out, shard).exists() and read_json(shard_notes(out, shard), ShardNotes).sources == sources
    except UserError:
        return False


def _must_be_made(out: Path, shard: int, sources: str) -> bool:
    """Whether a shard is new, damaged or made of other sources; says why it is made again."""
    path, notes = shard_path(out, shard), shard_notes(out, shard)
    if not notes.exists():
        return True
    try:
        found = read_json(notes, ShardNotes)
        if found.sources == sources and found.digest == digest_of(path):
            return False
        said = "it is damaged" if found.sources == sources else "its videos or captions have changed"
    except UserError as error:
        said = str(error)
    logging.warning("%s is made again: %s", path, said)
    return True


def _readable(source: ClipSource, rows: Iterable[int], *, top_fps: float) -> Iterator[Clip]:
    """The clips of some rows at no more than `top_fps`; damaged ones are noted in source.skipped.

    Raises:
      UserError: a file is gone.
    """
    for row in rows:
        try:
            clip = source[row]
        except ValueError as error:
            source.stamp(row)  # a file that is gone ends the run
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


def require_factor(size: int, *sides: int) -> None:
    """Raises UserError for frames that cannot be made smaller to all these sides."""
    for side in sides:
        if side < 1 or size % side:
            raise UserError(f"frames of {size} pixels cannot be made smaller to {side} by a whole factor")


def shrink(frames: UInt8[np.ndarray, "T H W 3"], *, side: int) -> UInt8[np.ndarray, "T side side 3"]:
    """Square frames made smaller by a whole factor: each pixel is the rounded mean of those that it covers.

    Raises:
      UserError: `side` does not divide the frames' side.
    """
    count, size = frames.shape[:2]
    require_factor(size, side)
    factor = size // side
    blocks = frames.reshape(count, side, factor, side, factor, 3)
    return np.rint(blocks.mean((2, 4), dtype=np.float32)).astype(np.uint8)


def _write_shard(
    out: Path, shard: int, encoded: Iterable[TokenClip], *, plan: Plan, source: ClipSource, rows: range
) -> None:
    """Writes a shard and its notes, unless another process is writing it."""
    sources, path = _digest(plan, source, rows), shard_path(out, shard)
    try:
        with whole_file(path, replace=True) as draft:
            (out / META).unlink(missing_ok=True)  # of a cache that is being made again
            held = _write_records(draft, encoded, shown=path)
            if _digest(plan, source, rows) != sources:
                raise UserError(f"videos changed while {path} was made of them; run again when they are complete")
            names = {source.name(row) for row in rows}
            skipped = tuple(entry for entry in source.skipped if entry[0] in names)
            notes = ShardNotes(**held, skipped=skipped, sources=sources, digest=digest_of(draft))
            write_json(shard_notes(out, shard), notes)
    except Busy:
        logging.info("%s is left to the process that is writing it", path)


def _write_records(draft: Path, encoded: Iterable[TokenClip], *, shown: Path) -> dict[str, int | float | None]:
    """Writes clips to a file; returns their number and sizes for its notes."""
    clips, tokens, coarse_tokens, shortest = 0, 0, None, math.inf
    with _disk_errors(shown):
        writer = ArrayRecordWriter(str(draft), "group_size:1")
    try:
        for clip in encoded:
            with _disk_errors(shown):
                writer.write(pack(clip))
            clips, tokens = clips + 1, clip.frames.shape[1]
            coarse_tokens = None if clip.coarse is None else clip.coarse.shape[1]
            shortest = min(shortest, len(clip.frames) / clip.fps)
    except BaseException:
        with contextlib.suppress(RuntimeError):  # of a disk that is full
            writer.close()
        raise
    with _disk_errors(shown):
        writer.close()
    sizes = dict(frame_tokens=tokens, coarse_tokens=coarse_tokens, shortest_seconds=shortest if clips else None)
    return dict(clips=clips, **sizes)


@contextlib.contextmanager
def _disk_errors(path: Path) -> Iterator[None]:
    """Turns what ArrayRecord says of a disk into a sentence."""
    try:
        yield
    except RuntimeError as error:
        raise UserError(f"{path} cannot be written: {reason(error).partition(';')[0]}") from error


def _join(out: Path, plan: Plan, *, shards: int, source: ClipSource) -> TokenCache | None:
    """Writes meta.json if it is not there or says something else; None if another process is writing it."""
    _remove_shards(out, first=shards)  # of a source that had more clips
    meta = join(plan, read_notes(out), tuple(source.skipped))
    found = None
    try:
        found = read_meta(out) if (out / META).exists() else None
    except UserError as error:
        logging.warning("%s is made again: %s", META, error)
    try:
        if found != meta:
            write_json(out / META, meta)
    except Busy:
        return None
    return TokenCache(out, plan.fingerprint)
