"""Shuffled, endless batches for this process, from an iterator whose position can be saved.

`iterator.get_state()` is a small dict of numbers that fits into JSON. After `iterator.set_state(state)` exactly the
same batches follow. Every epoch has its own order and every example its own random generator, both from `seed` and the
position alone. All processes together therefore read the same batches whatever their number, and a run may continue
with another number of processes, but not with another batch size.
"""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import grain
import numpy as np

from cogvideo_jax.data.cache import TokenClip
from cogvideo_jax.data.clips import Clip, ReadableClips
from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Int, UInt8

Example = Mapping[str, np.ndarray]  # arrays by name
MakeExample = Callable[[TokenClip, np.random.Generator], Example]

READ_THREADS = 2
PREFETCHED = 64  # examples read ahead by these threads, in whole batches
STEPS = 2**40  # more than any run has
CLIP_MEMORY = 256 * 2**20  # bytes of decoded videos that tokenizer training keeps


def token_batches(
    cache: Sequence[TokenClip],
    make_example: MakeExample,
    *,
    batch_size: int,
    seed: int,
    rows: Int[np.ndarray, "b"] | None = None,
) -> grain.DatasetIterator[Example]:
    """Batches of training examples.

    Args:
      cache: a TokenCache.
      make_example: (clip, rng) -> training example.
      batch_size: examples of all processes together.
      seed: order of the clips and randomness of the examples.
      rows: rows of a batch that this process reads; by default all.
    Returns:
      An iterator of dicts of the same arrays with a leading batch axis.
    """
    examples = _endless(cache, make_example, seed=seed)
    rows = np.arange(batch_size) if rows is None else rows

    def batch(step: int) -> Example:
        drawn = [examples[step * batch_size + int(row)] for row in rows]
        return {key: np.stack([example[key] for example in drawn]) for key in drawn[0]}

    return _iterator(batch, examples=len(rows))


def held_out_batches(
    clips: Sequence[Any],
    make_example: Callable[[Any, np.random.Generator], Example],
    *,
    batch_size: int,
    batches: int,
    seed: int,
    rows: Int[np.ndarray, "b"],
) -> list[Example]:
    """The same batches in every run, clips in turn; arguments as in `token_batches`."""

    def batch(step: int) -> Example:
        numbers = step * batch_size + rows
        drawn = [make_example(clips[i % len(clips)], np.random.default_rng([seed, 2, i])) for i in numbers]
        return {key: np.stack([example[key] for example in drawn]) for key in drawn[0]}

    return [batch(step) for step in range(batches)]


def frame_batches(
    source: Sequence[Clip],
    *,
    batch_size: int,
    frames_per_clip: int,
    seed: int,
    rows: Int[np.ndarray, "b"] | None = None,
) -> grain.DatasetIterator[UInt8[np.ndarray, "b H W 3"]]:
    """Batches of single pictures for training the VQ tokenizer.

    Decoding a video for one frame is wasteful, so each video gives `frames_per_clip` different frames; the pictures of
    one batch come from B / frames_per_clip videos.

    Args:
      source: clips by row; damaged rows are skipped, a small source is kept in memory.
      batch_size: B, pictures of all processes together.
      frames_per_clip: a divisor of B; a clip with fewer frames gives some of them twice.
      seed, rows: as in `token_batches`.

    Raises:
      UserError: frames_per_clip does not divide the batch.
    """
    if batch_size % frames_per_clip:
        raise UserError(f"frames_per_clip {frames_per_clip} does not divide the {batch_size} pictures of a batch")

    def take(clip: Clip, rng: np.random.Generator) -> np.ndarray:
        short = len(clip.frames) < frames_per_clip
        return clip.frames[rng.choice(len(clip.frames), frames_per_clip, replace=short)]

    pictures = _endless(ReadableClips(source, memory=CLIP_MEMORY), take, seed=seed)
    clips, frames = np.divmod(np.arange(batch_size) if rows is None else rows, frames_per_clip)

    def batch(step: int) -> UInt8[np.ndarray, "b H W 3"]:
        drawn = {int(clip): pictures[step * (batch_size // frames_per_clip) + int(clip)] for clip in np.unique(clips)}
        return np.stack([drawn[int(clip)][frame] for clip, frame in zip(clips, frames)])

    return _iterator(batch, examples=len(clips))


def _endless(
    source: Sequence[Any], draw: Callable[[Any, np.random.Generator], Any], *, seed: int
) -> grain.MapDataset[Any]:
    """Examples, made by `draw`, of the source in a new shuffled order each epoch."""
    draw_seed = int(np.random.SeedSequence([seed, 0]).generate_state(1)[0])
    return grain.MapDataset.source(source).shuffle(seed=seed).repeat().random_map(draw, seed=draw_seed)


def _iterator(batch: Callable[[int], Any], *, examples: int) -> grain.DatasetIterator[Any]:
    """Iterator over `batch(0), batch(1), ...`, computed some steps ahead in threads."""
    options = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=max(2, PREFETCHED // examples))
    return iter(grain.MapDataset.range(STEPS).map(batch).to_iter_dataset(options))
