"""A folder that is filled by steps and shows only finished files, whatever interrupts it."""

import contextlib
import fcntl
import os
import shutil
from collections.abc import Iterator
from pathlib import Path

from cogvideo_jax.errors import ConversionError

SCRATCH = ".converting"


@contextlib.contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """A scratch folder inside `target`, on its disk; it is gone afterwards, and so is `target` if it stayed empty.

    What a killed conversion left there is removed first. Two conversions cannot work on one target at a time: each
    would take its base for the one that both share.

    Raises:
      ConversionError: the target is a file, or another conversion is at work on it.
    """
    if target.exists() and not target.is_dir():
        raise ConversionError(f"{target} is a file; the target must be a folder")
    made = [folder for folder in [target, *target.parents] if not folder.exists()]
    target.mkdir(parents=True, exist_ok=True)
    handle = os.open(target, os.O_RDONLY)
    try:
        _lock(handle, target)
        shutil.rmtree(target / SCRATCH, ignore_errors=True)
        (target / SCRATCH).mkdir()
        try:
            yield target / SCRATCH
        finally:
            shutil.rmtree(target / SCRATCH, ignore_errors=True)
            with contextlib.suppress(OSError):
                for folder in made:
                    folder.rmdir()
    finally:
        os.close(handle)


def _lock(handle: int, target: Path) -> None:
    """Until the handle is closed, be it by a kill."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConversionError(f"another conversion is writing to {target}; wait for it") from error
