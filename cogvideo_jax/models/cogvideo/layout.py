"""ClipLayout: the order of text and frames in one sequence, and which frames are given and which generated.

    [ text (left-padded to S) | slot 0 | slot 1 | ... | slot T-1 ]      every slot holds N = h * w tokens

A *slot* is a place in the sequence, a *frame time* a place in the clip. They are equal in stage 1. Stage 2 puts its
three given frames first: slots 0..4 hold the frames of time 0, 2, 4, 1, 3. Given ("context") slots are read in both
directions, generated slots are causal, so training and sampling share one order and one mask.

Inputs are targets shifted right by one within each frame: `BOI, t0, t1, ..., t(N-2)` predicts `t0, ..., t(N-1)`. The
last token of a frame is never an input, as in the released model.
"""

import dataclasses
from typing import Annotated

import jax.numpy as jnp
import numpy as np
from pydantic import Field

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Array, Int
from cogvideo_jax.runtime.schemas import STRICT, Few, Index


@dataclasses.dataclass(frozen=True)
class ClipLayout:
    """Sizes and order of a sequence.

    Attributes:
      text_length: S, text tokens (left-padded).
      grid: h = w, side of a frame's token grid.
      frame_times: time of the frame in each slot; its length is T.
      context_slots: number of leading slots that are given and read in both directions (stage 2: 3; stage 1: 0).
      first_loss_slot: first slot with a loss (base 0, stage 1: 1, stage 2: 3).
    """

    __pydantic_config__ = STRICT

    text_length: Annotated[int, Field(gt=0, le=100_000)]
    grid: Few
    frame_times: Annotated[tuple[Index, ...], Field(min_length=1, max_length=1000)]
    context_slots: Index
    first_loss_slot: Index

    def __post_init__(self):
        if sorted(self.frame_times) != list(range(len(self.frame_times))):
            raise UserError(f"frame_times must be a permutation of 0..T-1, got {self.frame_times}")
        if self.context_slots > self.frames or self.first_loss_slot >= self.frames:
            raise UserError(
                f"context_slots {self.context_slots} and first_loss_slot {self.first_loss_slot} must fit "
                f"{self.frames} frames"
            )

    @property
    def frames(self) -> int:
        """T."""
        return len(self.frame_times)

    @property
    def frame_tokens(self) -> int:
        """N = h * w."""
        return self.grid * self.grid

    @property
    def image_length(self) -> int:
        """T * N."""
        return self.frames * self.frame_tokens

    @property
    def length(self) -> int:
        """L = S + T * N."""
        return self.text_length + self.image_length

    def times(self) -> Int[np.ndarray, "T"]:
        """Frame time of each slot as an array."""
        return np.asarray(self.frame_times, np.int32)

    def slot_of_time(self) -> Int[np.ndarray, "T"]:
        """Slot that holds each frame time; `frames_by_slot[:, slot_of_time()]` is in order of time."""
        return np.argsort(self.times())


def base_layout(*, text_length: int, grid: int) -> ClipLayout:
    """Layout of CogView2: one image after a text."""
    return ClipLayout(text_length, grid, (0,), context_slots=0, first_loss_slot=0)


def keyframe_layout(*, text_length: int, grid: int, frames: int = 5) -> ClipLayout:
    """Layout of stage 1: frames in order of time, the first given, the others with loss."""
    return ClipLayout(text_length, grid, tuple(range(frames)), context_slots=0, first_loss_slot=1)


def interpolation_layout(*, text_length: int, grid: int, frames: int = 5) -> ClipLayout:
    """Layout of stage 2: frames of even time are given, frames of odd time are generated."""
    times = (*range(0, frames, 2), *range(1, frames, 2))
    given = (frames + 1) // 2
    return ClipLayout(text_length, grid, times, context_slots=given, first_loss_slot=given)


def shift_right(frames: Int[Array, "B T N"], *, boi: int) -> Int[Array, "B T N"]:
    """Targets -> inputs: puts BOI before every frame and drops its last token."""
    start = jnp.full_like(frames[..., :1], boi)
    return jnp.concatenate([start, frames[..., :-1]], axis=-1)
