"""Files and folders that the project reads and writes.

Input is opened here: regular files only, never waited for, no larger than its kind can be. Output is written here:
under a temporary name beside its own, flushed to the disk and renamed when complete, so that neither a kill nor a full
disk leaves half a file; nothing that exists is replaced unless that is asked for, and no link is followed.
"""

import contextlib
import fcntl
import hashlib
import os
import shutil
import stat
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import BinaryIO

from absl import logging

from cogvideo_jax.errors import Busy, UserError

SMALL_FILE = 64 << 20  # bytes; a larger description is no description
LONGEST_NAME = 240  # bytes of a file's name, which gets a draft beside it
SHOWN = 40  # characters of a name that an error repeats
END = 1 << 20  # bytes at either end of a file
DRAFT = ".{}.part"
LFS_POINTER = b"version https://git-lfs"  # first bytes of what stands for a file that was not downloaded


# Reading ------------------------------------------------------------------------------------------


@contextlib.contextmanager
def open_input(path: str | Path, *, limit: int | None = None) -> Iterator[BinaryIO]:
    """A regular file, open for reading.

    Args:
      limit: bytes that it may have; None for any number.
    Raises:
      UserError: the file is missing, is a folder, a pipe or a device, is too large, stands for a file that was not
        downloaded, or cannot be read.
    """
    if "\0" in str(path):
        raise UserError(f"{str(path)!r} cannot be read: the name has a null byte")
    try:
        handle = os.open(path, os.O_RDONLY | os.O_NONBLOCK | os.O_CLOEXEC)  # a pipe without a writer would block
        found = os.fstat(handle)
        if not stat.S_ISREG(found.st_mode):
            os.close(handle)
            raise UserError(f"{path} is not a regular file")
        with os.fdopen(handle, "rb") as file:
            if limit is not None and found.st_size > limit:
                raise UserError(f"{path} has {found.st_size} bytes; at most {limit} are expected of such a file")
            if os.pread(handle, len(LFS_POINTER), 0) == LFS_POINTER:
                raise UserError(f"{path} is a Git LFS pointer, not the file itself; run `git lfs pull` in its folder")
            yield file
    except FileNotFoundError as error:
        raise UserError(f"{path} does not exist") from error
    except OSError as error:
        raise UserError(f"{path} cannot be read: {reason(error)}") from error


def read_bytes(path: str | Path, *, limit: int = SMALL_FILE) -> bytes:
    """A small file as a whole. Raises UserError as `open_input` does."""
    with open_input(path, limit=limit) as file:
        content = file.read(limit + 1)
    if len(content) > limit:
        raise UserError(f"{path} grows while it is read")
    return content


def require_regular_file(path: str | Path) -> None:
    """For libraries that open a file by its name. Raises UserError as `open_input` does."""
    with open_input(path):
        pass


def file_digest(path: str | Path) -> str:
    """SHA-256 of a file, in hexadecimal digits. Raises UserError as `open_input` does."""
    with open_input(path) as file:
        return hashlib.file_digest(file, "sha256").hexdigest()  # type: ignore[arg-type]


def folder_digest(folder: str | Path) -> str:
    """SHA-256 that tells one folder of weights from another: of names, sizes, and both ends of every file.

    Files in folders of the folder count, hidden ones in them do not.
    """
    found = hashlib.sha256()
    for path in sorted(path for path in Path(folder).rglob("*") if path.is_file()):
        name = path.relative_to(folder)
        if any(part.startswith(".") for part in name.parts) and len(name.parts) > 1:
            continue
        with open_input(path) as file:
            size = os.fstat(file.fileno()).st_size
            found.update(f"{name.as_posix()}\0{size}\0".encode("utf-8", "surrogateescape") + file.read(END))
            file.seek(max(0, size - END))
            found.update(file.read(END))
    return found.hexdigest()


# Writing ------------------------------------------------------------------------------------------


def require_free(path: str | Path, *, replace: bool = False) -> None:
    """Raises UserError if a file of this name cannot be written, or may not because it exists; writes nothing."""
    path = Path(path)
    if "\0" in path.name or len(os.fsencode(path.name)) > LONGEST_NAME:
        raise UserError(f"{path.name[:SHOWN]!r}... is no name of a file; choose a shorter one")
    with disk_errors(path):
        if path.is_dir():
            raise UserError(f"{path} is a folder; a file is to be written")
        if not replace and os.path.lexists(path):
            raise UserError(f"{path} exists; choose another name, or pass --force to replace it")


def require_space(folder: str | Path, size: int, purpose: str) -> None:
    """Raises UserError if a folder's disk has less than `size` bytes free; the folder need not exist yet."""
    folder = Path(folder)
    existing = next(parent for parent in [folder, *folder.parents] if parent.exists())
    free = shutil.disk_usage(existing).free
    if size > free:
        raise UserError(f"{purpose} needs {size / 1e6:,.1f} MB, but {existing} has {free / 1e6:,.1f} MB free")


@contextlib.contextmanager
def whole_file(path: str | Path, *, replace: bool = False) -> Iterator[Path]:
    """A temporary name to write to, which becomes `path` when the block ends well and is removed when it does not.

    Args:
      replace: take the place of a file of this name, or of a link, whose target stays as it is.
    Raises:
      UserError: the file exists, another process writes it, or the disk is full, read-only or gone.
    """
    path = Path(path)
    require_free(path, replace=replace)
    draft = path.with_name(DRAFT.format(path.name))
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        with open(os.open(draft, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o666), "rb+") as own:
            _lock(own.fileno(), f"another process is writing {path}")
            if not _is_named(own.fileno(), draft):
                raise Busy(f"another process has just written {path}")
            try:
                own.truncate(0)  # what a kill has left
                yield draft
                _flush(draft)
                require_free(path, replace=replace)
                os.replace(draft, path)
                _flush(path.parent)
            except BaseException:
                draft.unlink(missing_ok=True)
                raise


def write_bytes(path: str | Path, content: bytes, *, replace: bool = False) -> None:
    """Writes a small file as a whole. Raises UserError as `whole_file` does."""
    with whole_file(path, replace=replace) as draft:
        draft.write_bytes(content)


def write_text(path: str | Path, text: str, *, replace: bool = False) -> None:
    """Writes a small UTF-8 file as a whole. Raises UserError as `whole_file` does."""
    write_bytes(path, text.encode(), replace=replace)


@contextlib.contextmanager
def whole_folder(path: str | Path, *, replace: bool = False, ours: Callable[[str], bool]) -> Iterator[Path]:
    """A folder to fill, which becomes `path` when the block ends well and is removed when it does not.

    Args:
      replace: take the place of a folder in which all names are `ours`.
    Raises:
      UserError: the folder has files, another process writes it, or the disk is full, read-only or gone.
    """
    path = Path(os.path.abspath(path))  # "." has no name to put a draft beside
    draft, older = (path.with_name(f".{path.name}.{end}") for end in ("part", "old"))
    with disk_errors(path):
        path.parent.mkdir(parents=True, exist_ok=True)
        if older.exists() and not path.exists():
            older.rename(path)  # a kill came between the two renames below
        draft.mkdir(exist_ok=True)
        with held(draft):
            _require_empty(path, ours if replace else lambda name: False)
            try:
                for entry in draft.iterdir():
                    _remove(entry)  # what a kill has left
                yield draft
                _flush(draft)
                if path.exists():
                    _remove(older)
                    path.rename(older)
                draft.rename(path)
                _flush(path.parent)
                _remove(older)
            except BaseException:
                _remove(draft)
                raise


def _require_empty(path: Path, ours: Callable[[str], bool]) -> None:
    """Raises UserError if a folder has files that may not be replaced."""
    if path.is_symlink() or (path.exists() and not path.is_dir()):
        raise UserError(f"{path} is not a folder; choose another name")
    kept = [entry.name for entry in path.iterdir() if not ours(entry.name)] if path.exists() else []
    if kept:
        raise UserError(f"{path} has {kept[0]!r} already; choose another folder, or pass --force to replace weights")


def _remove(path: Path) -> None:
    if path.is_dir() and not path.is_symlink():
        shutil.rmtree(path)
    else:
        path.unlink(missing_ok=True)


@contextlib.contextmanager
def held(folder: str | Path) -> Iterator[None]:
    """Keeps other processes from writing to a folder, which is made if it does not exist; a kill ends that, too.

    Raises:
      UserError: another process holds it, or it cannot be written.
    """
    folder = Path(folder)
    with disk_errors(folder):
        folder.mkdir(parents=True, exist_ok=True)
        handle = os.open(folder, os.O_RDONLY | os.O_CLOEXEC)
        try:
            _lock(handle, f"another process is writing to {folder}; wait until it is done, or choose another folder")
            yield
        finally:
            os.close(handle)


def reason(error: Exception) -> str:
    """What the system or a library says, in one line."""
    return getattr(error, "strerror", None) or " ".join(str(error).split()) or type(error).__name__


@contextlib.contextmanager
def disk_errors(path: Path) -> Iterator[None]:
    """Raises UserError, which names the path, where the disk is full, read-only or gone."""
    try:
        yield
    except OSError as error:
        raise UserError(f"{path} cannot be written: {reason(error)}") from error


def _lock(handle: int, refusal: str) -> None:
    """Locks an open file or folder until its handle is closed."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise Busy(refusal) from error
    except OSError as error:  # a network disk without locks
        logging.warning("no locks on this disk (%s): do not write there from two processes", error.strerror)


def _is_named(handle: int, path: Path) -> bool:
    """Whether an open file still has this name: it may have been renamed before it was locked."""
    try:
        return os.path.samestat(os.fstat(handle), os.stat(path, follow_symlinks=False))
    except FileNotFoundError:
        return False


def _flush(path: Path) -> None:
    """Makes sure that a file, or the names in a folder, survive a loss of power."""
    handle = os.open(path, os.O_RDONLY | os.O_CLOEXEC)
    try:
        os.fsync(handle)
    finally:
        os.close(handle)
