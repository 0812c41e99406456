"""Files of JSON lines that grow as work is done."""

import codecs
from pathlib import Path
from typing import TypeVar

from absl import logging
from pydantic_core import from_json

from cogvideo_jax.runtime.files import read_bytes
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


def _is_cut(line: bytes) -> bool:
    """True if a line is the beginning of a JSON object."""
    try:
        from_json(codecs.getincrementaldecoder("utf-8")().decode(line))  # leaves out half a character at the end
    except ValueError as error:
        return line.startswith(b"{") and str(error).startswith("EOF")
    return False
