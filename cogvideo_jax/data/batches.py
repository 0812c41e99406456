"""Shuffled, endless batches for this process, from an iterator whose place can be saved.

`iterator.get_state()` is a small dict of numbers (JSON can hold it) and `iterator.set_state(state)` goes back
there: the batches that follow are exactly those that would have followed. Every epoch has an order of its own
and every example its own random generator, both from `seed` and the place alone. So all processes together read the
same batches however many they are, and a run may go on with another number of them; the batch size must stay.
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
STEPS = 2**40  # more than any run takes
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
      make_example: arrays of one example of a clip.
      batch_size: examples of all processes together.
      seed: order of the clips and randomness of the examples.
      rows: which of a batch are read here; by default all.
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

    Reading a video to take one frame of it is wasteful, so `frames_per_clip` different frames are taken of
    each that is read; the pictures of one batch come from B / frames_per_clip videos.

    Args:
      source: clips by row; damaged rows are passed over, a small source is kept in memory.
      batch_size: B, pictures of all processes together.
      frames_per_clip: a divisor of B; a clip with fewer frames gives some twice.
      seed, rows: as in `token_batches`.

    Raises:
      UserError: sizes that do not divide.
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
    """The source in a shuffled order, again and again; `draw` makes an example of each."""
    draw_seed = int(np.random.SeedSequence([seed, 0]).generate_state(1)[0])
    return grain.MapDataset.source(source).shuffle(seed=seed).repeat().random_map(draw, seed=draw_seed)


def _iterator(batch: Callable[[int], Any], *, examples: int) -> grain.DatasetIterator[Any]:
    """Calls `batch` for step 0, 1, ..., some steps ahead in threads."""
    options = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=max(2, PREFETCHED // examples))
    return iter(grain.MapDataset.range(STEPS).map(batch).to_iter_dataset(options))
