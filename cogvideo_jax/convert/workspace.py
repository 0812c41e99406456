"""Target folder that shows only finished files, whatever interrupts the work."""

import contextlib
import shutil
from collections.abc import Iterator
from pathlib import Path

from cogvideo_jax.errors import ConversionError
from cogvideo_jax.runtime.files import held

SCRATCH = ".converting"
FILES = (".safetensors", ".pt", ".pth", ".bin", ".ckpt", ".zip", ".npz", ".npy", ".model", ".json")  # no folders' names


@contextlib.contextmanager
def workspace(target: Path) -> Iterator[Path]:
    """Scratch folder inside `target`, removed afterwards, as is `target` if it stayed empty.

    Remains of a killed conversion are removed first. Only one conversion at a time may use a target: two would each
    take their own base for the shared one.

    Raises:
      UserError: the target is a file, cannot be written, or another process is writing to it.
    """
    require_folder_name(target)
    made = [folder for folder in [target, *target.parents] if not folder.exists()]
    scratch = target / SCRATCH
    with held(target):
        try:
            shutil.rmtree(scratch, ignore_errors=True)
            scratch.mkdir()
            yield scratch
        finally:
            shutil.rmtree(scratch, ignore_errors=True)
            with contextlib.suppress(OSError):
                for folder in made:
                    folder.rmdir()


def require_folder_name(target: Path) -> None:
    """Raises ConversionError if a target is a file or has the name of one."""
    if target.exists() and not target.is_dir():
        raise ConversionError(f"{target} is a file; the target must be a folder")
    if not target.exists() and target.suffix.lower() in FILES:
        raise ConversionError(f"{target} ends in {target.suffix} like a file; the target must be a folder")
