"""SHA256SUMS: digests of a folder's files, which `sha256sum --check SHA256SUMS` reads as well."""

import re
from collections.abc import Iterator
from pathlib import Path

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.files import file_digest, read_bytes, write_text
from cogvideo_jax.runtime.schemas import shown

FILE = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\0]+)")


def note_digests(folder: str | Path) -> Path:
    """Writes the digests of all files, to be called when the folder is complete."""
    folder = Path(folder)
    paths = sorted(path for path in folder.iterdir() if path.is_file() and path.name[0] != "." and path.name != FILE)
    write_text(folder / FILE, "".join(f"{file_digest(path)}  {path.name}\n" for path in paths), replace=True)
    return folder / FILE


def check_digests(folder: str | Path) -> Iterator[str]:
    """A sentence for each file that is missing, or that has changed since its digest was noted.

    A folder without SHA256SUMS has nothing to compare. Raises UserError if SHA256SUMS itself is damaged.
    """
    folder = Path(folder)
    noted = _read(folder / FILE) if (folder / FILE).exists() else {}
    for name, digest in noted.items():
        try:
            if file_digest(folder / name) != digest:
                yield f"{folder / name} has changed since {FILE} was written"
        except UserError as error:
            yield str(error)


def _read(path: Path) -> dict[str, str]:
    """Digests by the names of files."""
    lines = read_bytes(path).decode(errors="replace").splitlines()
    matches = [LINE.fullmatch(line) for line in lines]
    if not all(matches) or not matches:
        wrong = next((line for line, match in zip(lines, matches) if not match), "")
        raise UserError(f"{path} is damaged: {shown(wrong)} should be a digest, two spaces and the name of a file")
    return {match[2]: match[1] for match in matches if match}
