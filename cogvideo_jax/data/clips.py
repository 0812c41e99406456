"""Sources of captioned clips with random access by row.

A row that cannot be read raises ValueError; iteration skips such rows and records them, with reasons, in
`source.skipped`.
"""

import abc
import contextlib
import dataclasses
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
from absl import logging

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import UInt8


@dataclasses.dataclass(frozen=True)
class Clip:
    """A video in memory.

    Attributes:
      frames: its pixels.
      fps: frames/s.
      texts: its captions, at least one.
      name: its origin, for messages.
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
        """(name, reason) of every row or file skipped so far."""
        return list(self._skipped.items())

    def skip(self, name: str, reason: str) -> None:
        """Records that a row or file was skipped."""
        self._skipped[name] = reason

    @abc.abstractmethod
    def __len__(self) -> int:
        """Number of rows, including damaged ones."""

    @abc.abstractmethod
    def name(self, row: int) -> str:
        """Name of a row, without reading it."""

    @property
    def settings(self) -> dict[str, str]:
        """Settings that decide what is read of each clip."""
        return {}

    def captions(self) -> Iterable[str]:
        """Captions that are known before a clip is read."""
        return ()

    def stamp(self, row: int) -> str:
        """Differs if what a row is read from has changed. Raises UserError if that is gone."""
        return self.name(row)

    @abc.abstractmethod
    def __getitem__(self, row: int) -> Clip:
        """Reads the clip of a row. Raises ValueError if it is damaged."""

    def __iter__(self) -> Iterator[Clip]:
        """Iterates over readable clips; names the others in `skipped` and in one warning at the end."""
        for row in range(len(self)):
            try:
                clip = self[row]
            except ValueError as error:
                self.skip(self.name(row), str(error))
            else:
                yield clip
        self.warn_of_skipped()

    def warn_of_skipped(self) -> None:
        """Logs one warning with the number and names of skipped rows."""
        warn_of(self.skipped)


@contextlib.contextmanager
def noted(source: Sequence[Clip] | ClipSource, row: int) -> Iterator[None]:
    """Where a row of a source of clips is read: if it is damaged, its name is recorded, and said the first time."""
    try:
        yield
    except ValueError as error:
        if isinstance(source, ClipSource):
            name = source.name(row)
            if name not in dict(source.skipped):
                logging.warning("skipped %s: %s", name, error)
            source.skip(name, str(error))
        raise


def warn_of(skipped: Sequence[tuple[str, str]]) -> None:
    """Logs one warning with the number, names and reasons of what was skipped."""
    if skipped:
        logging.warning("skipped %d: %s", len(skipped), "; ".join(f"{name}: {reason}" for name, reason in skipped))


class ReadableClips:
    """Random access for endless training, with a damaged row replaced by the next readable one.

    Keeps clips in memory while they fit into `memory` bytes, so that a small folder is decoded only once.
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
                    with noted(self.source, candidate):
                        return self._keep(candidate, self.source[candidate])
                except ValueError:
                    self._damaged.add(candidate)
        raise UserError(f"none of {len(self)} clips can be read")

    def _keep(self, row: int, clip: Clip) -> Clip:
        if clip.frames.nbytes <= self.memory:
            self.memory -= clip.frames.nbytes
            self._kept[row] = clip
        return clip
