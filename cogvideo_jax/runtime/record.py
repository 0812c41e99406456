"""What a folder of videos holds already: `videos.jsonl`, a row for every finished video.

A row has all that decides how the video looks, so that a second run makes what is missing or was asked for differently.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from cogvideo_jax.runtime.files import file_digest
from cogvideo_jax.runtime.jsonl import append_line, read_lines
from cogvideo_jax.runtime.schemas import FileName, NotNegative, Schema, Text, check

FILE = "videos.jsonl"
FOUND = {"files", "digests", "weights_digest"}  # in a row, and not asked for
Plain = None | bool | int | float | str | list


def _is_setting(value: Any) -> Any:
    items = value if isinstance(value, list) else [value]
    if all(isinstance(x, bool | str | None) or (isinstance(x, int | float) and abs(x) < 2**64) for x in items):
        return value
    raise ValueError("it should be null, true, false, a number, a text, or a list of these")


Setting = Annotated[Any, AfterValidator(_is_setting)]


class Row(Schema):
    """One finished video.

    Attributes:
      video: its file.
      prompt: what it shows.
      number: which of several videos of this prompt; `copy` in the file.
      files: all that were written of it, beside the record.
      digests: SHA-256 of each file; None in a row of 0.1.0, as is `weights_digest`.
      weights_digest: see `folder_digest`.

    All other keys are what the user asked for.
    """

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    __pydantic_extra__: dict[Annotated[str, Field(min_length=1, max_length=100)], Setting]

    video: FileName
    prompt: Text
    number: Annotated[NotNegative, Field(alias="copy")]
    files: Annotated[tuple[FileName, ...], Field(min_length=1, max_length=1000)]
    digests: tuple[Text, ...] | None = None
    weights_digest: Text | None = None


class Record:
    """The rows of one folder; of rows with the same file the last one holds.

    Args:
      path: JSON lines; None keeps none, and then nothing is ever done already.
      asked: what all videos of a run have in common.
      weights_digest: of the folder of weights.

    Raises:
      UserError: names the line that is no row.
    """

    def __init__(self, path: Path | None, asked: Mapping[str, Plain], *, weights_digest: str | None = None):
        self.path, self.asked, self.weights_digest = path, dict(asked), weights_digest
        rows = read_lines(path, Row) if path else []
        self._rows = {file: row for row in rows for file in row.files}

    def has(self, video: str, *, prompt: str, copy: int) -> bool:
        """Whether this video was made in this way, by these weights, and all its files are as they were written."""
        row = self._rows.get(video)
        if row is None or row.weights_digest not in (None, self.weights_digest):
            return False
        if _asked(row.model_dump(by_alias=True)) != _asked(self._values(video, prompt, copy)):
            return False
        return all(self._rows[file] is row for file in row.files) and self._is_whole(row)

    def _is_whole(self, row: Row) -> bool:
        paths = [self.path.parent / file for file in row.files]
        if not all(path.is_file() for path in paths):
            return False
        return row.digests is None or [file_digest(path) for path in paths] == list(row.digests)

    def add(self, video: str, *, prompt: str, copy: int, files: Sequence[str]) -> None:
        """Notes that a video is finished."""
        if self.path is None:
            return
        digests = [file_digest(self.path.parent / file) for file in files]
        values = self._values(video, prompt, copy) | {"files": list(files), "digests": digests}
        values |= {"weights_digest": self.weights_digest} if self.weights_digest else {}
        check(values, Row, where=f"a new row of {self.path}")
        append_line(self.path, _text(values))

    def _values(self, video: str, prompt: str, copy: int) -> dict[str, Any]:
        return {"video": video, "prompt": prompt, "copy": copy, **self.asked}


def _asked(values: dict[str, Any]) -> str:
    """What was asked for, without options that are off: a row stays valid when options are added."""
    off = {name for name, value in values.items() if value is None or value is False or value == []}
    return _text({name: value for name, value in values.items() if name not in off | FOUND})


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, sort_keys=True)
