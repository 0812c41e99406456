"""What a folder of videos holds already: `videos.jsonl`, a row for every finished video.

A row has all that decides how the video looks, so that a second run makes what is missing or was asked for differently.
"""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any

from pydantic import AfterValidator, ConfigDict, Field

from cogvideo_jax.runtime.jsonl import read_lines
from cogvideo_jax.runtime.schemas import FileName, NotNegative, Schema, Text, check

FILE = "videos.jsonl"
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

    All other keys are what the user asked for.
    """

    model_config = ConfigDict(extra="allow", populate_by_name=True)
    __pydantic_extra__: dict[Annotated[str, Field(min_length=1, max_length=100)], Setting]

    video: FileName
    prompt: Text
    number: Annotated[NotNegative, Field(alias="copy")]
    files: Annotated[tuple[FileName, ...], Field(min_length=1, max_length=1000)]


class Record:
    """The rows of one folder.

    Args:
      path: JSON lines; None keeps none, and then nothing is ever done already.
      asked: what all videos of a run have in common.

    Raises:
      UserError: names the line that is no row.
    """

    def __init__(self, path: Path | None, asked: Mapping[str, Plain]):
        self.path, self.asked = path, dict(asked)
        rows = read_lines(path, Row) if path else []
        self._files = {_asked(row.model_dump(by_alias=True, exclude={"files"})): row.files for row in rows}

    def has(self, video: str, *, prompt: str, copy: int) -> bool:
        """Whether this video was made in this way, and all its files are there."""
        files = self._files.get(_asked(self._values(video, prompt, copy)), ())
        return bool(files) and all((self.path.parent / file).exists() for file in files)

    def add(self, video: str, *, prompt: str, copy: int, files: Sequence[str]) -> None:
        """Notes that a video is finished."""
        if self.path is None:
            return
        values = self._values(video, prompt, copy) | {"files": list(files)}
        check(values, Row, where=f"a new row of {self.path}")
        with self.path.open("ab+") as file:
            file.seek(max(0, file.tell() - 1))
            ended = file.read() in (b"", b"\n")  # not where a kill has cut a row
            file.write(f"{'' if ended else chr(10)}{_text(values)}\n".encode())

    def _values(self, video: str, prompt: str, copy: int) -> dict[str, Any]:
        return {"video": video, "prompt": prompt, "copy": copy, **self.asked}


def _asked(values: dict[str, Any]) -> str:
    """What was asked for, without options that are off: a row stays valid when options are added."""
    off = {name for name, value in values.items() if value is None or value is False or value == []}
    return _text({name: value for name, value in values.items() if name not in off})


def _text(values: dict[str, Any]) -> str:
    return json.dumps(values, ensure_ascii=False, sort_keys=True)
