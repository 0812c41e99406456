"""Target folder that shows only finished files, whatever interrupts the work."""

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
    """Scratch folder inside `target`, removed afterwards, as is `target` if it stayed empty.

    Remains of a killed conversion are removed first. Only one conversion at a time may use a target: two would each
    take their own base for the shared one.

    Raises:
      ConversionError: the target is a file, or another conversion is using it.
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
    """Locks a folder until its handle is closed, if only by a kill."""
    try:
        fcntl.flock(handle, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError as error:
        raise ConversionError(f"another conversion is writing to {target}; wait until it is done") from error
