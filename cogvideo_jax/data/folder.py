"""Folder of a user's own videos.

    videos/
      captions.jsonl      one line per video: {"file": "lion.mp4", "text": "a lion is drinking water"}
      lion.mp4 ...        mp4, webm, mov, mkv, avi, gif, animated webp; also in subfolders

Instead of captions.jsonl there may be captions.csv: a table with the columns file and text, or the published list of
WebVid or Kinetics (see `parse_table_row`). Both are UTF-8; UTF-16 is recognised.
"""

import collections
import csv
import io
import itertools
import json
import os
import re
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, NamedTuple

from pydantic import BeforeValidator, ConfigDict, Field
from pydantic_core import from_json

from cogvideo_jax.data.clips import Clip, ClipSource
from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.files import open_input, reason
from cogvideo_jax.runtime.media import read_video
from cogvideo_jax.runtime.schemas import Schema, Text, make, parse_json, shown
from cogvideo_jax.runtime.text import plain_text

LINES, TABLE = "captions.jsonl", "captions.csv"
LONGEST_LINE = 1 << 20  # characters; a longer line is no caption
LONGEST_PIECES = 64  # of that length; a file with a line of more is no list
LINES_OF_A_ROW = 10  # of a table, whose quoted fields may have line ends
SUFFIXES = (".mp4", ".webm", ".mkv")  # of the videos of published lists
NAMES_SHOWN = 3


def _listed(texts: Any) -> Any:
    """One caption or several, as several."""
    return (texts,) if isinstance(texts, str) else tuple(texts) if isinstance(texts, list) else texts


class Row(Schema):
    """A line of captions.jsonl; what else it says is not read."""

    model_config = ConfigDict(extra="ignore")

    file: Text
    text: Annotated[tuple[Text, ...], Field(min_length=1), BeforeValidator(_listed)]


class Captioned(NamedTuple):
    """What a row means: the files that it may name, the likeliest first, and captions in plain text."""

    files: list[str]
    texts: tuple[str, ...]


Parse = Callable[[], Captioned]  # of one row; raises UserError


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
        with open_input(captions) as file:
            for number, parse in {LINES: _lines, TABLE: _table}[captions.name](_text_lines(file, captions), captions):
                self._add(f"{captions.name} line {number}", parse)
        if not self._rows:
            first = f" ({self.skipped[0][0]}: {self.skipped[0][1]})" if self._skipped else ""
            raise UserError(f"{captions} has no usable row{first}")

    def _captions(self) -> Path:
        found = [self.folder / name for name in (LINES, TABLE) if os.path.lexists(self.folder / name)]
        if not found:
            raise UserError(f"{self.folder} is not a folder of videos: it has no readable {LINES} or {TABLE}")
        return found[0]

    def _add(self, place: str, parse: Parse) -> None:
        """Adds the first existing file of those that a row may mean."""
        try:
            files, texts = parse()
            there = next((file for file in files if os.path.isfile(self.folder / file)), None)
            if there is None:
                raise UserError(_no_file(files))
        except UserError as error:
            self.skip(place, str(error))
        else:
            self._rows.append((there, texts))

    @property
    def settings(self) -> dict[str, str]:
        values = dict(size=self.size, fps=self.fps, max_seconds=self.max_seconds, min_frames=self.min_frames)
        return {"folder": self.folder.resolve().name, **{name: str(value) for name, value in values.items()}}

    def captions(self) -> Iterator[str]:
        return itertools.chain.from_iterable(texts for _, texts in self._rows)

    def __len__(self) -> int:
        return len(self._rows)

    def name(self, row: int) -> str:
        return self._rows[row][0]

    def stamp(self, row: int) -> str:
        file, texts = self._rows[row]
        try:
            found = os.stat(self.folder / file)
        except OSError as error:
            raise UserError(
                f"{self.folder / file} was there, and now: {reason(error)}; bring it back, and run again"
            ) from error
        return json.dumps([file, found.st_size, found.st_mtime_ns, texts])

    def __getitem__(self, row: int) -> Clip:
        file, texts = self._rows[row]
        frames = read_video(self.folder / file, fps=self.fps, max_seconds=self.max_seconds, size=self.size)
        if len(frames) < self.min_frames:
            raise UserError(f"only {len(frames)} frames at {self.fps:g} frames/s; {self.min_frames} are needed")
        return Clip(frames, self.fps, texts, file)


def _no_file(files: Sequence[str]) -> str:
    names = ", ".join(shown(file)[1:-1] if len(file) < 50 else shown(file) for file in files[:NAMES_SHOWN])
    more = f" or {len(files) - NAMES_SHOWN} other names of it" if len(files) > NAMES_SHOWN else ""
    return f"there is no file {names}{more}"


# Lists ------------------------------------------------------------------------------------------------

Line = tuple[int, str]  # its number, from 1


def _text_lines(file: Any, path: Path) -> Iterator[Line]:
    """Lines in UTF-8 or UTF-16; of one that is too long, the beginning. Bytes of no character become U+FFFD."""
    start = file.read(4)
    file.seek(0)
    text = io.TextIOWrapper(file, encoding=json.detect_encoding(start).replace("utf-8-sig", "utf-8"), errors="replace")
    for number in itertools.count(1):
        piece = line = text.readline(LONGEST_LINE)
        pieces = 1
        while piece and not piece.endswith("\n"):
            piece, pieces = text.readline(LONGEST_LINE), pieces + 1
            if pieces > LONGEST_PIECES:
                raise UserError(f"{path} line {number} has no end, so this is no list of captions")
        if not line:
            return
        yield number, line.removeprefix("\ufeff")


def _checked(line: str) -> str:
    """The line. Raises UserError if it cannot hold a caption."""
    if len(line) >= LONGEST_LINE:
        raise UserError(f"it has {LONGEST_LINE} characters or more, which is no caption")
    if "\ufffd" in line:
        raise UserError("it has bytes that are no text; save the list as UTF-8")
    return line


def _lines(lines: Iterator[Line], path: Path) -> Iterator[tuple[int, Parse]]:
    """Rows of captions.jsonl."""
    for number, line in lines:
        if line.strip():
            yield number, lambda line=line: parse_row(line)


def _table(lines: Iterator[Line], path: Path) -> Iterator[tuple[int, Parse]]:
    """Rows of captions.csv. A quote without its partner costs the row in which it stands."""
    head = next(lines, (0, ""))[1]
    delimiter = max(",;\t", key=head.count)
    columns = [name.strip(' "').lower() for name in head.strip().split(delimiter)]
    if not {"file", "videoid", "youtube_id"} & set(columns):
        raise UserError(
            f"{path} has none of the columns file, videoid and youtube_id in its first line, {shown(head.strip())}; "
            "it should be file,text or that of WebVid or Kinetics"
        )
    ahead = collections.deque(itertools.islice(lines, LINES_OF_A_ROW))
    while ahead:
        number, used = ahead[0][0], 1
        reader = csv.reader((_checked(line) for _, line in ahead), delimiter=delimiter, strict=True)
        try:
            fields = next(reader)
            used = reader.line_num
        except (csv.Error, UserError) as error:
            yield number, lambda error=error: _refuse(error)
        else:
            if any(fields):
                yield number, lambda fields=fields: parse_table_row(_by_column(columns, fields))
        for _ in range(used):
            ahead.popleft()
        ahead.extend(itertools.islice(lines, used))


def _refuse(error: Exception) -> Captioned:
    raise UserError(str(error) if isinstance(error, UserError) else f"it is no row of a table: {reason(error)}")


def _by_column(columns: Sequence[str], fields: Sequence[str]) -> dict[str, str]:
    """Fields by their columns. Raises UserError if they are not as many."""
    if len(fields) < len(columns) or any(field.strip() for field in fields[len(columns) :]):
        raise UserError(f"it has {len(fields)} fields for {len(columns)} columns; put captions with commas in quotes")
    return dict(zip(columns, fields))


# Rows -------------------------------------------------------------------------------------------------


def parse_row(line: str) -> Captioned:
    """Parses a line of captions.jsonl; the file name is relative and stays inside the folder.

    Raises:
      UserError: the line is malformed.
    """
    try:
        from_json(_checked(line))
    except UserError:
        raise
    except ValueError as error:  # also half a pair of surrogates
        raise UserError("not a line of JSON") from error
    row = parse_json(line, Row, where="the line")
    return _captioned([row.file], row.text)


def parse_table_row(row: dict[str, str]) -> Captioned:
    """Parses a row of captions.csv, by its columns.

    | columns                                            | file                                     | text  |
    |----------------------------------------------------|------------------------------------------|-------|
    | file, text                                         | file                                     | text  |
    | videoid, page_dir, name (WebVid)                   | ID.mp4, also in page_dir/ and videos/    | name  |
    | label, youtube_id, time_start, time_end (Kinetics) | ID_000010_000020.mp4, also in label/ and | label |
    |                                                    | in split/label/                          |       |

    The videos of published lists may also be .webm or .mkv, and the spaces of a label's folder underscores.

    Raises:
      UserError: the row is malformed.
    """
    try:
        if row.get("file"):
            return _captioned([row["file"]], (row["text"],))
        if row.get("videoid"):
            page, stem = row.get("page_dir", ""), row["videoid"].strip().removesuffix(".0")  # a spreadsheet's number
            return _captioned(_names([page, f"videos/{page}", "videos", ""], stem), (row["name"],))
        if row.get("youtube_id"):
            stem = f"{row['youtube_id']}_{_seconds(row['time_start'])}_{_seconds(row['time_end'])}"
            labels = (row["label"], row["label"].replace(" ", "_"))
            folders = [*labels, *(f"{row.get('split') or '.'}/{label}" for label in labels), ""]
            return _captioned(_names(folders, stem), (row["label"],))
    except KeyError as error:
        raise UserError(f"it lacks the column {error}") from error
    raise UserError("it names no file")


def _names(folders: Sequence[str], stem: str) -> list[str]:
    """Where a video of a published list may lie."""
    paths = (PurePosixPath(folder) / f"{stem}{suffix}" for suffix in SUFFIXES for folder in folders)
    return list(dict.fromkeys(map(str, paths)))


def _captioned(files: list[str], texts: Sequence[str]) -> Captioned:
    """Files that stay inside the folder, and captions in plain text. Raises UserError."""
    row = make(Row, where="the row", file=files[0], text=[plain_text(text) or " " for text in texts])
    if not all(text.strip() for text in row.text):
        raise UserError("it has no caption")
    return Captioned([_inside(file) for file in files], row.text)


def _seconds(text: str) -> str:
    """A moment as Kinetics' file names have it."""
    if not re.fullmatch(r"\d{1,6}(\.0*)?", text.strip()):
        raise UserError(f"times must be whole seconds, got {shown(text)}")
    return f"{int(float(text)):06d}"


def _inside(name: str) -> str:
    """Returns a file name. Raises UserError if it leads out of the folder."""
    file = PurePosixPath(name.replace("\\", "/"))
    if file.is_absolute() or ".." in file.parts or not file.parts or "\0" in name:
        raise UserError(f"the file name {shown(name)} must stay inside the folder")
    return str(file)
