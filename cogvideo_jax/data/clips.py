"""Sources of captioned clips: random access by row.

A row that cannot be read raises ValueError; iterating skips such rows. What was skipped, and why, stands in
`source.skipped`.
"""

import abc
import dataclasses
from collections.abc import Iterator, Sequence

import numpy as np
from absl import logging

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import UInt8


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video in memory.

    Attributes:
      frames: its pixels.
      fps: frames/s at which they follow each other.
      texts: its captions, at least one.
      name: where it came from, for messages.
    """

    frames: UInt8[np.ndarray, "T H W 3"]
    fps: float
    texts: tuple[str, ...]
    name: str


class ClipSource(abc.ABC):
    """Clips by row number."""

    def __init__(self):
        self._skipped: dict[str, str] = {}

    @property
    def skipped(self) -> list[tuple[str, str]]:
        """(name, reason) of what could not be used so far."""
        return list(self._skipped.items())

    def skip(self, name: str, reason: str) -> None:
        """Notes that something could not be used."""
        self._skipped[name] = reason

    @abc.abstractmethod
    def __len__(self) -> int:
        """Rows, damaged ones included."""

    @abc.abstractmethod
    def name(self, row: int) -> str:
        """Name of a row, known without reading it."""

    @abc.abstractmethod
    def __getitem__(self, row: int) -> Clip:
        """The clip of a row; ValueError if it is damaged."""

    def __iter__(self) -> Iterator[Clip]:
        """All clips that can be read; the others are named in `skipped` and in one warning at the end."""
        for row in range(len(self)):
            try:
                clip = self[row]
            except ValueError as error:
                self.skip(self.name(row), str(error))
            else:
                yield clip
        self.warn_of_skipped()

    def warn_of_skipped(self) -> None:
        """One log line that counts and names what was skipped."""
        if self._skipped:
            reasons = "; ".join(f"{name}: {reason}" for name, reason in self._skipped.items())
            logging.warning("skipped %d: %s", len(self._skipped), reasons)


class ReadableClips:
    """Random access for endless training: in place of a damaged row stands the next that can be read.

    Clips are kept in memory while they fit into `memory` bytes, so that a small folder is decoded only once.
    """

    def __init__(self, source: Sequence[Clip], *, memory: int):
        self.source, self.memory = source, memory
        self._kept: dict[int, Clip] = {}
        self._damaged: set[int] = set()

    def __len__(self) -> int:
        return len(self.source)

    def __getitem__(self, row: int) -> Clip:
        for candidate in ((row + step) % len(self) for step in range(len(self))):
            if candidate in self._kept:
                return self._kept[candidate]
            if candidate not in self._damaged:
                try:
                    return self._keep(candidate, self.source[candidate])
                except ValueError as error:
                    self._damaged.add(candidate)
                    logging.warning("skipped a clip: %s", error)
        raise UserError(f"not one of {len(self)} clips can be read")

    def _keep(self, row: int, clip: Clip) -> Clip:
        if clip.frames.nbytes <= self.memory:
            self.memory -= clip.frames.nbytes
            self._kept[row] = clip
        return clip
