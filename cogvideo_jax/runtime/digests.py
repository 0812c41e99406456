"""SHA256SUMS: digests of a folder's files, which `sha256sum --check SHA256SUMS` reads as well."""

import re
from collections.abc import Collection, Iterator
from pathlib import Path

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.files import file_digest, read_bytes, write_text
from cogvideo_jax.runtime.schemas import shown

FILE = "SHA256SUMS"
LINE = re.compile(r"([0-9a-f]{64}) [ *]([^/\\\0]+)")


def note_digests(folder: str | Path, *, last: Path | None = None) -> Path:
    """Adds the digests of files that have none yet, and drops those of files that are gone.

    Args:
      last: a file that moves here next; with it the folder is complete.
    Raises:
      UserError: SHA256SUMS itself is damaged.
    """
    folder, noted = Path(folder), read_digests(folder)
    paths = [path for path in folder.iterdir() if path.is_file() and path.name[0] != "." and path.name != FILE]
    files = {path.name: path for path in [*paths, *([last] if last else [])]}
    return _write(folder, {name: noted.get(name) or file_digest(path) for name, path in files.items()})


def forget_digests(folder: str | Path, names: Collection[str]) -> None:
    """Drops the digests of files that are about to change, so that a kill leaves none that is wrong."""
    kept = read_digests(folder)
    if kept.keys() & names:
        _write(Path(folder), {name: digest for name, digest in kept.items() if name not in names})


def check_digests(folder: str | Path) -> Iterator[str]:
    """A sentence for each file that is missing, or that has changed since its digest was noted.

    A folder without SHA256SUMS has nothing to compare. Raises UserError if SHA256SUMS itself is damaged.
    """
    folder = Path(folder)
    for name, digest in read_digests(folder).items():
        try:
            if file_digest(folder / name) != digest:
                yield f"{folder / name} has changed since {FILE} was written"
        except UserError as error:
            yield str(error)


def read_digests(folder: str | Path) -> dict[str, str]:
    """Digests by the names of files; none in a folder without SHA256SUMS. Raises UserError if it is damaged."""
    path = Path(folder) / FILE
    lines = read_bytes(path).decode(errors="replace").splitlines() if path.exists() else []
    matches = [LINE.fullmatch(line) for line in lines]
    if not all(matches) or (path.exists() and not matches):
        wrong = next((line for line, match in zip(lines, matches) if not match), "")
        raise UserError(f"{path} is damaged: {shown(wrong)} should be a digest, two spaces and the name of a file")
    return {match[2]: match[1] for match in matches if match}


def _write(folder: Path, digests: dict[str, str]) -> Path:
    lines = (f"{digest}  {name}\n" for name, digest in sorted(digests.items()))
    write_text(folder / FILE, "".join(lines), replace=True)
    return folder / FILE
