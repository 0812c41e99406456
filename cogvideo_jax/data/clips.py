"""Sources of captioned clips: a folder of videos with captions.jsonl, and the project's own TFDS set.

    videos/
      captions.jsonl      one line a video: {"file": "lion.mp4", "text": "a lion is drinking water"}
      lion.mp4 ...        mp4, webm, mov, mkv, avi, gif, animated webp; also in subfolders

A source has random access by row. A row that cannot be read raises ValueError; iterating skips such rows.
What was skipped, and why, stands in `source.skipped`.
"""

import abc
import dataclasses
import json
from collections.abc import Iterator, Sequence
from pathlib import Path, PurePosixPath

import numpy as np
from absl import logging

from cogvideo_jax.data import motion
from cogvideo_jax.data.captioned_motion import CaptionedMotion, MotionConfig
from cogvideo_jax.notation import UInt8
from cogvideo_jax.runtime.video_io import read_video

CAPTIONS_FILE = "captions.jsonl"


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


class FolderSource(ClipSource):
    """A folder of videos and its captions.jsonl, every video as square frames at one rate."""

    def __init__(
        self,
        folder: str | Path,
        *,
        size: int,
        fps: float = 8.0,
        max_seconds: float = 60.0,
        min_frames: int = 5,
    ):
        """Reads the captions; videos are read when asked for.

        Args:
          folder: holds captions.jsonl, whose file names are relative to it.
          size: side of the frames, pixels; the shorter side is resized to it and the middle square taken.
          fps: frames/s that every video is resampled to, by timestamp.
          max_seconds: the rest of a longer video is left out.
          min_frames: shorter videos count as damaged (a training clip has 5 frames).
        Raises:
          ValueError: there is no captions.jsonl, or not one usable row in it.
        """
        super().__init__()
        self.folder = Path(folder)
        self.size, self.fps, self.max_seconds, self.min_frames = size, fps, max_seconds, min_frames
        captions = self.folder / CAPTIONS_FILE
        try:
            lines = captions.read_bytes().splitlines()
        except OSError as error:
            raise ValueError(f"{self.folder} is no folder of videos: it has no readable {CAPTIONS_FILE}") from error
        self._rows = []
        for number, line in enumerate(lines, 1):
            if line.strip():
                self._add(f"{CAPTIONS_FILE} line {number}", line)
        if not self._rows:
            reason = f" ({self.skipped[0][0]}: {self.skipped[0][1]})" if self._skipped else ""
            raise ValueError(f"{captions} has no usable row{reason}")

    def _add(self, place: str, line: bytes) -> None:
        try:
            file, texts = parse_row(line)
            if not (self.folder / file).is_file():
                raise ValueError(f"there is no file {file}")
        except ValueError as error:
            self.skip(place, str(error))
        else:
            self._rows.append((file, texts))

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, row: int) -> str:
        return self._rows[row][0]

    def __getitem__(self, row: int) -> Clip:
        file, texts = self._rows[row]
        frames = read_video(self.folder / file, fps=self.fps, max_seconds=self.max_seconds, size=self.size)
        if len(frames) < self.min_frames:
            raise ValueError(f"only {len(frames)} frames at {self.fps:g} frames/s, {self.min_frames} are needed")
        return Clip(frames, self.fps, texts, file)


def parse_row(line: bytes) -> tuple[str, tuple[str, ...]]:
    """(file, texts) of one line of captions.jsonl; the file name is relative and stays inside the folder.

    Raises:
      ValueError: what is wrong with the line.
    """
    try:
        row = json.loads(line)
    except ValueError as error:  # bad JSON or bad UTF-8
        raise ValueError("not a line of JSON") from error
    if not isinstance(row, dict) or not isinstance(row.get("file"), str) or "text" not in row:
        raise ValueError('the line must be an object with the keys "file" and "text"')
    file = PurePosixPath(row["file"].replace("\\", "/"))
    if file.is_absolute() or ".." in file.parts or not file.parts or "\0" in row["file"]:
        raise ValueError(f"the file name {row['file']!r} must stay inside the folder")
    texts = row["text"] if isinstance(row["text"], list) else [row["text"]]
    if not texts or not all(isinstance(text, str) and text.strip() for text in texts):
        raise ValueError('"text" must be a caption or a list of captions')
    return str(file), tuple(texts)


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
        raise ValueError(f"not one of {len(self)} clips can be read")

    def _keep(self, row: int, clip: Clip) -> Clip:
        if clip.frames.nbytes <= self.memory:
            self.memory -= clip.frames.nbytes
            self._kept[row] = clip
        return clip


class MotionSource(ClipSource):
    """A split of the CaptionedMotion set, which is drawn first if it is not on disk yet."""

    def __init__(self, data_dir: str | Path, *, split: str, train_clips: int, test_clips: int, scale: int = 1):
        """Opens one split.

        Args:
          split: "train" or "test".
          train_clips, test_clips: choose the version of the set.
          scale: 1 reads the frames of the set; a larger number draws the same clips that many times as large.
        """
        super().__init__()
        config = MotionConfig.of(train_clips=train_clips, test_clips=test_clips)
        builder = CaptionedMotion(data_dir=str(data_dir), config=config)
        builder.download_and_prepare()
        self.split, self.scale = split, scale
        self.records = builder.as_data_source(split)

    def __len__(self) -> int:
        return len(self.records)

    def name(self, row: int) -> str:
        return f"{self.split}/{row}"

    def __getitem__(self, row: int) -> Clip:
        record = self.records[row]
        texts = (record["english"].decode(), record["chinese"].decode())
        frames = record["frames"] if self.scale == 1 else motion.render(drawn_spec(record), scale=self.scale)
        return Clip(frames, float(record["fps"]), texts, self.name(row))


def drawn_spec(record: dict) -> motion.MotionSpec:
    """What a record of the CaptionedMotion set shows; every action begins at its start."""
    words = (record[key].decode() for key in ("object", "colour", "action"))
    return motion.MotionSpec(*words, start=tuple(int(place) for place in record["path"][0]))


def open_source(name: str, *, size: int, data_dir: str | Path, train_clips: int, test_clips: int = 1_000) -> ClipSource:
    """The clips of `captioned_motion` (its training split), or of the folder of that name.

    Args:
      name: "captioned_motion" or a folder with captions.jsonl.
      size: side of the frames, pixels.
      data_dir, train_clips, test_clips: where and how large the drawn set is.
    """
    if name != "captioned_motion":
        return FolderSource(name, size=size)
    if size < 1 or size % motion.SIZE:
        raise ValueError(f"captioned_motion has frames of {motion.SIZE} pixels or a multiple of it, not {size}")
    clips = dict(train_clips=train_clips, test_clips=test_clips)
    return MotionSource(data_dir, split="train", scale=size // motion.SIZE, **clips)
