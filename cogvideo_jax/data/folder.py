"""Folder of a user's own videos.

    videos/
      captions.jsonl      one line per video: {"file": "lion.mp4", "text": "a lion is drinking water"}
      lion.mp4 ...        mp4, webm, mov, mkv, avi, gif, animated webp; also in subfolders

Instead of captions.jsonl there may be captions.csv: a table with the columns file and text, or the published list of
WebVid or Kinetics (see `parse_table_row`).
"""

import codecs
import csv
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Annotated, Any

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import from_json

from cogvideo_jax.data.clips import Clip, ClipSource
from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.media import read_video
from cogvideo_jax.runtime.schemas import Schema, Text, parse_json, shown

LINES, TABLE = "captions.jsonl", "captions.csv"
LONGEST_LINE = 1 << 20  # bytes
LONGEST_NAME = 255  # characters of a file's name that an error repeats


def _listed(texts: Any) -> Any:
    """One caption or several, as several."""
    return (texts,) if isinstance(texts, str) else tuple(texts) if isinstance(texts, list) else texts


class Row(Schema):
    """A line of captions.jsonl; what else it says is not read."""

    model_config = ConfigDict(extra="ignore")

    file: Text
    text: Annotated[tuple[Text, ...], Field(min_length=1), BeforeValidator(_listed)]


class FolderSource(ClipSource):
    """Videos of a folder and their captions, as square frames at one rate."""

    def __init__(
        self,
        folder: str | Path,
        *,
        size: int,
        fps: float = 8.0,
        max_seconds: float = 60.0,
        min_frames: int = 5,
    ):
        """Reads the captions; videos are read on access.

        Args:
          folder: contains captions.jsonl or captions.csv, whose file names are relative to it.
          size: side of the frames in pixels; the shorter side is resized to it and the middle square cropped.
          fps: frames/s to which every video is resampled, by timestamp.
          max_seconds: longer videos are cut to this length.
          min_frames: shorter videos count as damaged (a training clip has 5 frames).
        Raises:
          UserError: there are no captions, or none with a usable row.
        """
        super().__init__()
        self.folder = Path(folder)
        self.size, self.fps, self.max_seconds, self.min_frames = size, fps, max_seconds, min_frames
        self._rows: list[tuple[str, tuple[str, ...]]] = []
        captions = self._captions()
        read = {LINES: _lines, TABLE: _table}[captions.name]
        try:
            for number, row in read(captions):
                self._add(f"{captions.name} line {number}", row)
        except (OSError, UnicodeDecodeError, csv.Error) as error:
            raise UserError(f"{captions} cannot be read: {error}") from error
        if not self._rows:
            reason = f" ({self.skipped[0][0]}: {self.skipped[0][1]})" if self._skipped else ""
            raise UserError(f"{captions} has no usable row{reason}")

    def _captions(self) -> Path:
        found = [self.folder / name for name in (LINES, TABLE) if (self.folder / name).is_file()]
        if not found:
            raise UserError(f"{self.folder} is not a folder of videos: it has no readable {LINES} or {TABLE}")
        return found[0]

    def _add(self, place: str, row: bytes | dict[str, str]) -> None:
        """Adds the first existing file of those that a row may mean."""
        try:
            files, texts = parse_row(row) if isinstance(row, bytes) else parse_table_row(row)
            there = [file for file in files if (self.folder / file).is_file()]
            if not there:
                raise UserError(f"there is no file {files[0][:LONGEST_NAME]}")
        except (ValueError, OSError) as error:  # the system refuses some names, such as long ones
            self.skip(place, str(error))
        else:
            self._rows.append((there[0], texts))

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, row: int) -> str:
        return self._rows[row][0]

    def __getitem__(self, row: int) -> Clip:
        file, texts = self._rows[row]
        frames = read_video(self.folder / file, fps=self.fps, max_seconds=self.max_seconds, size=self.size)
        if len(frames) < self.min_frames:
            raise UserError(f"only {len(frames)} frames at {self.fps:g} frames/s; {self.min_frames} are needed")
        return Clip(frames, self.fps, texts, file)


def _lines(captions: Path) -> Iterator[tuple[int, bytes]]:
    with captions.open("rb") as file:
        for number, line in enumerate(iter(lambda: file.readline(LONGEST_LINE), b""), 1):
            if len(line) == LONGEST_LINE:
                raise UserError(f"{captions} line {number} has {LONGEST_LINE} bytes or more, which is no caption")
            line = line.removeprefix(codecs.BOM_UTF8)
            if line.strip():
                yield number, line


def _table(captions: Path) -> Iterator[tuple[int, dict[str, str]]]:
    with captions.open(encoding="utf-8-sig", newline="") as file:
        reader = csv.DictReader(file)
        for row in reader:
            yield reader.line_num, row


def parse_row(line: bytes) -> tuple[list[str], tuple[str, ...]]:
    """Parses a line of captions.jsonl to (files, texts); the file name is relative and stays inside the folder.

    Raises:
      UserError: the line is malformed.
    """
    try:
        from_json(line)
    except ValueError as error:  # bad JSON or bad UTF-8
        raise UserError("not a line of JSON") from error
    row = parse_json(line, Row, where="the line")
    if not all(text.strip() for text in row.text):
        raise UserError('"text" must be a caption or a list of captions')
    return [_inside(row.file)], row.text


def parse_table_row(row: dict[str, str]) -> tuple[list[str], tuple[str, ...]]:
    """Parses a row of captions.csv, by its columns, to (files that it may mean, texts).

    | columns                                            | file                                       | text  |
    |----------------------------------------------------|--------------------------------------------|-------|
    | file, text                                         | file                                       | text  |
    | videoid, page_dir, name (WebVid)                   | page_dir/videoid.mp4, without page_dir/    | name  |
    | label, youtube_id, time_start, time_end (Kinetics) | label/ID_000010_000020.mp4, without label/ | label |

    Raises:
      UserError: the row is malformed.
    """
    try:
        if row.get("file"):
            files, text = [row["file"]], row["text"]
        elif row.get("videoid"):
            name, text = f"{row['videoid']}.mp4", row["name"]
            files = [f"{row['page_dir']}/{name}", name] if row.get("page_dir") else [name]
        elif row.get("youtube_id"):
            text = row["label"]
            name = f"{row['youtube_id']}_{_seconds(row['time_start'])}_{_seconds(row['time_end'])}.mp4"
            files = [f"{text}/{name}", name]
        else:
            raise UserError("it has none of the columns file, videoid and youtube_id")
    except KeyError as error:
        raise UserError(f"it lacks the column {error}") from error
    if not text or not text.strip():
        raise UserError("it has no caption")
    return [_inside(file) for file in files], (text,)


def _seconds(text: str | None) -> str:
    """A moment as Kinetics' file names have it."""
    if not re.fullmatch(r"\d{1,6}", text or ""):
        raise UserError(f"times must be whole seconds, got {str(text)[:40]!r}")
    return f"{int(text):06d}"


def _inside(name: str) -> str:
    """Returns a file name. Raises UserError if it leads out of the folder."""
    file = PurePosixPath(name.replace("\\", "/"))
    if file.is_absolute() or ".." in file.parts or not file.parts or "\0" in name:
        raise UserError(f"the file name {shown(name)} must stay inside the folder")
    return str(file)
