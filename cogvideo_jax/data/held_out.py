"""Clips that are kept out of training, chosen by a hash of their names: the same on every machine and in every order.

Training reads `TrainingClips`, validation `held_out_clips` of the same source and share.
"""

import hashlib
from collections.abc import Sequence
from typing import Any

from cogvideo_jax.data.clips import ClipSource, noted
from cogvideo_jax.errors import UserError

MOST_CLIPS = 256  # clips that validation reads; a cache of millions is not searched to its end


def is_held_out(name: str, share: float) -> bool:
    """Whether a clip belongs to the held-out share, 0 to 1."""
    number = int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big")
    return number < share * 2**64


class TrainingClips(Sequence):
    """A source without its held-out clips: in place of each stands the next one that is not held out.

    So no names need to be known in advance, and with a share of 0 every row stays where it is.
    """

    def __init__(self, source: Sequence[Any], *, share: float):
        self.source, self.share = source, share

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> Any:
        if not 0 <= row < len(self):
            raise IndexError(row)
        for candidate in ((row + step) % len(self) for step in range(len(self))):
            with noted(self.source, candidate):
                clip = self.source[candidate]
            if not is_held_out(clip.name, self.share):
                return clip
        raise UserError(f"validation.share={self.share} holds out all {len(self)} clips; lower it")


def held_out_clips(source: Sequence[Any], *, share: float, most: int) -> list[Any]:
    """The first `most` held-out clips that can be read, MOST_CLIPS or fewer. Raises UserError if there is none."""
    clips: list[Any] = []
    for row in range(len(source)):
        if isinstance(source, ClipSource) and not is_held_out(source.name(row), share):
            continue
        try:
            with noted(source, row):
                clip = source[row]
        except ValueError:
            if not isinstance(source, ClipSource):  # of a cache, none may be left out
                raise
            continue
        if is_held_out(clip.name, share):
            clips.append(clip)
        if len(clips) == min(most, MOST_CLIPS):
            break
    if not clips:
        raise UserError(f"validation.share={share} holds out none of {len(source)} clips; raise it, or set it to 0")
    return clips
