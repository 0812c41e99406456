"""Files of JSON lines that grow as work is done."""

import codecs
import errno
import os
from pathlib import Path
from typing import TypeVar

from absl import logging
from pydantic_core import from_json

from cogvideo_jax.runtime.files import disk_errors, read_bytes
from cogvideo_jax.runtime.schemas import parse_json

T = TypeVar("T")
LARGEST = 1 << 30  # bytes


def read_lines(path: Path, schema: type[T]) -> list[T]:
    """Rows of an earlier run; a row truncated by a kill is dropped with a warning.

    Raises:
      UserError: the file cannot be read, or another row does not fit the schema.
    """
    rows = []
    for number, line in enumerate(read_bytes(path, limit=LARGEST).split(b"\n") if path.exists() else [], 1):
        if _is_cut(line):
            logging.warning("%s: dropped line %d, which was cut short", path, number)
        elif line.strip():
            rows.append(parse_json(line, schema, where=f"{path} line {number}"))
    return rows


def append_line(path: Path, row: str) -> None:
    """Adds a row as a whole, on a line of its own even where a kill has cut the last one.

    Raises:
      UserError: the disk does not take it; the file is then as before.
    """
    with disk_errors(path), path.open("ab+", buffering=0) as file:
        end = file.seek(0, os.SEEK_END)
        file.seek(max(0, end - 1))
        line = (b"" if file.read() in (b"", b"\n") else b"\n") + f"{row}\n".encode()
        if file.write(line) < len(line):
            file.truncate(end)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def _is_cut(line: bytes) -> bool:
    """True if a line is the beginning of a JSON object."""
    try:
        from_json(codecs.getincrementaldecoder("utf-8")().decode(line))  # leaves out half a character at the end
    except ValueError as error:
        return line.startswith(b"{") and str(error).startswith("EOF")
    return False
