"""Shuffled, endless batches for this process, from an iterator whose place can be saved.

`iterator.get_state()` is a small dict of numbers (JSON can hold it) and `iterator.set_state(state)` goes back
there: the batches that follow are exactly those that would have followed. Every epoch has an order of its own
and every example its own random generator, both from `seed` and the place alone; so batch size and number of
processes must not change between saving and resuming.
"""

from collections.abc import Callable, Sequence
from typing import Any

import grain
import numpy as np

from cogvideo_jax.data.clips import Clip, ReadableClips
from cogvideo_jax.data.examples import Example, FineExample
from cogvideo_jax.data.tokenize import TokenClip
from cogvideo_jax.notation import UInt8

MakeExample = Callable[[TokenClip, np.random.Generator], Example | FineExample]

READ_THREADS = 2
PREFETCHED = 64  # examples read ahead by these threads
CLIP_MEMORY = 256 * 2**20  # bytes of decoded videos that tokenizer training keeps


def token_batches(
    cache: Sequence[TokenClip],
    make_example: MakeExample,
    *,
    batch_size: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[Example | FineExample]:
    """Batches of training examples.

    Args:
      cache: a TokenCache.
      make_example: one of examples.py with all but (clip, rng) filled in, e.g. by functools.partial.
      batch_size: examples of all processes together; each gets its share.
      seed: order of the clips and randomness of the examples.
      process_index, process_count: which part of the clips is read here.
    Returns:
      An iterator of dicts of arrays with a leading batch axis, e.g. text int32 [B, S], text_mask bool [B, S],
      frames int32 [B, T, N].
    Raises:
      ValueError: sizes that do not divide, or fewer clips than processes.
    """
    share = _share(batch_size, process_count)
    return _iterator(cache, make_example, share, seed=seed, part=(process_index, process_count))


def frame_batches(
    source: Sequence[Clip],
    *,
    batch_size: int,
    frames_per_clip: int,
    seed: int,
    process_index: int = 0,
    process_count: int = 1,
) -> grain.DatasetIterator[UInt8[np.ndarray, "B H W 3"]]:
    """Batches of single pictures for training the VQ tokenizer.

    Reading a video to take one frame of it is wasteful, so `frames_per_clip` different frames are taken of
    each that is read; the pictures of one batch come from B / frames_per_clip videos.

    Args:
      source: clips by row; damaged rows are passed over, a small source is kept in memory.
      batch_size: B, pictures of all processes together.
      frames_per_clip: a divisor of each process's share of B; a clip with fewer frames gives some twice.
      seed, process_index, process_count: as in `token_batches`.
    """
    share = _share(batch_size, process_count)
    if share % frames_per_clip:
        raise ValueError(f"frames_per_clip {frames_per_clip} does not divide {share} pictures a process")

    def take(clip: Clip, rng: np.random.Generator) -> np.ndarray:
        short = len(clip.frames) < frames_per_clip
        return clip.frames[rng.choice(len(clip.frames), frames_per_clip, replace=short)]

    clips = share // frames_per_clip
    readable = ReadableClips(source, memory=CLIP_MEMORY)
    return _iterator(readable, take, clips, seed=seed, part=(process_index, process_count), join=np.concatenate)


def _share(batch_size: int, process_count: int) -> int:
    if batch_size < 1 or batch_size % process_count:
        raise ValueError(f"batch size {batch_size} cannot be shared among {process_count} processes")
    return batch_size // process_count


def _iterator(
    rows: Sequence[Any],
    draw: Callable[[Any, np.random.Generator], Any],
    batch_size: int,
    *,
    seed: int,
    part: tuple[int, int],
    join: Callable[[Sequence[Any]], Any] | None = None,
) -> grain.DatasetIterator[Any]:
    """Every `part[1]`-th row of a shuffled order, again and again; `draw` makes an example of it."""
    index, count = part
    if not 0 <= index < count or len(rows) < count:
        raise ValueError(f"process {index} of {count} has no part of {len(rows)} clips")
    draw_seed = int(np.random.SeedSequence([seed, index]).generate_state(1)[0])  # differs between processes
    dataset = grain.MapDataset.source(rows).shuffle(seed=seed)[index::count].repeat()
    dataset = dataset.random_map(draw, seed=draw_seed).batch(batch_size, drop_remainder=True, batch_fn=join)
    options = grain.ReadOptions(num_threads=READ_THREADS, prefetch_buffer_size=max(2, PREFETCHED // batch_size))
    return iter(dataset.to_iter_dataset(options))
