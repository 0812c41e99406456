"""One cached video -> one training example: which frames, in which slots, behind which text.

| stage            | text                        | frames                                           |
|------------------|-----------------------------|--------------------------------------------------|
| base             | caption + " 高清摄影"         | the first                                        |
|                  | as below + " 2.0秒"          | that of the moment                               |
|                  | as key frames, at any rate  | any                                              |
| key frames       | "4.0秒" <n> caption          | 5 at the lowest preset rate that yields 5        |
| interpolation    | "1.0秒" <n> caption          | 5 at a random rate, those of odd time at the end |
| super-resolution | caption                     | one, fine and coarse; a part of it is masked     |

The parts of a text are tokenised one by one and joined. The text is padded on the left, as in the released
data. Targets, loss weights and masks follow from the ClipLayout and are made in the training step.
"""

from collections.abc import Sequence
from typing import NotRequired, TypedDict

import numpy as np
from absl import logging

from cogvideo_jax.data import frame_rate
from cogvideo_jax.data.cache import TokenClip
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.layout import ClipLayout
from cogvideo_jax.models.cogvideo.text import GUIDANCE_TEXT, TextTokenizer, clip_text_ids, left_pad_text, moment_phrase
from cogvideo_jax.notation import Bool, Int


class Example(TypedDict):
    """Arrays of one example, a dict because grain stacks dicts of arrays into batches."""

    text: Int[np.ndarray, "S"]  # int32, padded on the left
    text_mask: Bool[np.ndarray, "S"]  # False on pads
    frames: Int[np.ndarray, "T N"]  # int32, in the order of slots


class FineExample(TypedDict):
    """Arrays of one example of super-resolution; "coarse" for the direct model only."""

    text: Int[np.ndarray, "S"]  # int32, padded on the left
    text_mask: Bool[np.ndarray, "S"]  # False on pads
    coarse: NotRequired[Int[np.ndarray, "n"]]  # int32
    fine: Int[np.ndarray, "N"]  # int32
    masked: Bool[np.ndarray, "N"]  # True where the model has to say the token


def base_example(
    clip: TokenClip,
    rng: np.random.Generator,
    *,
    text: TextTokenizer,
    layout: ClipLayout,
    first_frame_suffix: str,
    first_frame_probability: float,
    moment_probability: float,
    moments_a_second: float,
    rates: Sequence[float],
    text_dropout: float,
) -> Example:
    """One frame behind a text: CogView2's task, with a suffix that asks for a first frame.

    Words that name a motion ("comes back", "clockwise") matter to no single frame, so a base that is trained on these
    clips alone would never learn them, and the stages on top could not read them. Moments make them matter.

    Args:
      clip: a cached video.
      rng: all randomness of the example.
      text: text tokenizer.
      layout: `base_layout`.
      first_frame_suffix: stands behind the caption when the frame is the first of the video.
      first_frame_probability: of taking the first frame.
      moment_probability: of taking a later frame and saying when it is shown; for captions of the whole clip. Of two
        drawn moments the last is taken: late frames tell opposite words apart ("grows", "shrinks"), and were all as
        frequent, such words would say little on average and be learned late.
      moments_a_second: the frames that this is said of. The fewer, the sooner all are learned; those of the key frames
        are what stage 1 writes.
      rates: frames/s, one of which the texts of moments, and the remaining, state first as those of the video stages
        do; () for none.
      text_dropout: probability of GUIDANCE_TEXT in place of the caption.
    """
    caption = _caption(clip, rng, text_dropout)
    kind, index = rng.random(), rng.integers(len(clip.frames))
    if kind < first_frame_probability:
        index, ids = 0, text.encode(caption + first_frame_suffix)
    elif kind < first_frame_probability + moment_probability:
        moments = frame_rate.later_frames(len(clip.frames), source_fps=clip.fps, rate=moments_a_second)
        index = rng.choice(moments, size=2).max()
        ids = _any_rate_ids(caption + moment_phrase(index / clip.fps), rng, rates=rates, text=text)
    else:
        ids = _any_rate_ids(caption, rng, rates=rates, text=text)
    return _example(ids, clip.frames[[index]], text=text, layout=layout)


def keyframe_example(
    clip: TokenClip,
    rng: np.random.Generator,
    *,
    text: TextTokenizer,
    layout: ClipLayout,
    rates: Sequence[float],
    text_dropout: float,
) -> Example:
    """Stage 1: frames at the lowest of `rates` that yields enough; a longer video starts anywhere.

    Raises:
      UserError: the video is too short for every rate.
    """
    rate = frame_rate.lowest_rate(len(clip.frames), clip.fps, rates=rates, frames=layout.frames)
    return _clip_example(clip, rng, rate=rate, text=text, layout=layout, text_dropout=text_dropout)


def interpolation_example(
    clip: TokenClip,
    rng: np.random.Generator,
    *,
    text: TextTokenizer,
    layout: ClipLayout,
    rates: Sequence[float],
    tiled: bool,
    text_dropout: float,
) -> Example:
    """Stage 2: frames at a random one of those `rates` (2, 4, 8 frames/s in the paper) that yield enough.

    Args:
      tiled: take only windows into which generation would cut this video (frame_rate.random_indices); else any.

    Raises:
      UserError: the video is too short for every rate.
    """
    enough = frame_rate.enough_rates(len(clip.frames), clip.fps, rates=rates, frames=layout.frames)
    rate = enough[rng.integers(len(enough))]
    return _clip_example(clip, rng, rate=rate, text=text, layout=layout, text_dropout=text_dropout, tiled=tiled)


def fine_example(
    clip: TokenClip,
    rng: np.random.Generator,
    *,
    text: TextTokenizer,
    text_length: int,
    coarse: bool,
    mask_ratios: Sequence[float],
) -> FineExample:
    """Super-resolution: any frame, behind the caption alone; longer texts are cut.

    Args:
      coarse: with the frame's coarse ids (direct model).
      mask_ratios: lowest and highest share of masked fine tokens, between which it is drawn; at least one is masked.
    """
    index = rng.integers(len(clip.frames))
    fine = clip.frames[index].astype(np.int32)
    count = max(1, round(rng.uniform(*mask_ratios) * len(fine)))
    masked = np.zeros(len(fine), bool)
    masked[rng.permutation(len(fine))[:count]] = True
    ids, mask = _padded(text.encode(_caption(clip, rng, 0.0)), length=text_length, text=text)
    example = FineExample(text=ids, text_mask=mask, fine=fine, masked=masked)
    return example | {"coarse": clip.coarse[index].astype(np.int32)} if coarse else example


def _clip_example(
    clip: TokenClip,
    rng: np.random.Generator,
    *,
    rate: float,
    text: TextTokenizer,
    layout: ClipLayout,
    text_dropout: float,
    tiled: bool = False,
) -> Example:
    indices = frame_rate.random_indices(
        rng, len(clip.frames), source_fps=clip.fps, rate=rate, frames=layout.frames, tiled=tiled
    )
    ids = clip_text_ids(_caption(clip, rng, text_dropout), fps=rate, text=text)
    return _example(ids, clip.frames[indices[layout.times()]], text=text, layout=layout)


def _any_rate_ids(words: str, rng: np.random.Generator, *, rates: Sequence[float], text: TextTokenizer) -> list[int]:
    if not rates:
        return text.encode(words)
    return clip_text_ids(words, fps=rates[rng.integers(len(rates))], text=text)


def _caption(clip: TokenClip, rng: np.random.Generator, text_dropout: float) -> str:
    """One of the captions, or the guidance text, so that the model learns to be guided against it."""
    caption = clip.texts[rng.integers(len(clip.texts))]
    return GUIDANCE_TEXT if rng.random() < text_dropout else caption


def _example(ids: list[int], frames: Int[np.ndarray, "T N"], *, text: TextTokenizer, layout: ClipLayout) -> Example:
    if frames.shape != (layout.frames, layout.frame_tokens):
        raise UserError(f"the layout wants frames {layout.frames, layout.frame_tokens}, got {frames.shape}")
    padded, mask = _padded(ids, length=layout.text_length, text=text)
    return {"text": padded, "text_mask": mask, "frames": frames.astype(np.int32)}


def _padded(ids: list[int], *, length: int, text: TextTokenizer) -> tuple[Int[np.ndarray, "S"], Bool[np.ndarray, "S"]]:
    """Text padded on the left; warns once that longer texts are cut."""
    if len(ids) > length:
        cut = "a training text has %d tokens and the model reads %d; the end of longer texts is cut off"
        logging.log_first_n(logging.WARNING, cut, 1, len(ids), length)
    return left_pad_text(ids, length=length, pad_id=text.pad_id)
