"""Files of prompts: text, one prompt a line."""

from pathlib import Path

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.files import read_bytes


def read_prompts(path: str | Path) -> list[str]:
    """One prompt a line; empty lines are left out.

    Raises:
      UserError: the file cannot be read, is not UTF-8 text, or has no prompt.
    """
    try:
        text = read_bytes(path).decode("utf-8-sig")
    except UnicodeDecodeError as error:
        raise UserError(f"prompts file {path} is not UTF-8 text: byte {error.start} is wrong") from error
    if "\0" in text:
        raise UserError(f"prompts file {path} is not text: it has a zero byte")
    prompts = [line.strip() for line in text.splitlines() if line.strip()]
    if not prompts:
        raise UserError(f"prompts file {path} has no line with a prompt")
    return prompts
