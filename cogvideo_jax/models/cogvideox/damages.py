"""What is damaged in a snapshot, for `cogvideo verify`. Every file is read to its end, a tensor at a time."""

import re
from collections.abc import Callable, Iterator
from pathlib import Path

from cogvideo_jax.convert import shards
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideox import snapshot
from cogvideo_jax.runtime.files import file_digest


def damages(folder: Path) -> Iterator[str]:
    """A sentence for each file that is missing, damaged or does not fit."""
    checks = [snapshot.read_task, snapshot.read_schedule, snapshot.read_text]
    checks += [snapshot.read_transformer, snapshot.read_vae, snapshot.read_encoder]
    for check in checks:
        yield from _said_by(check, folder)
    for part in (snapshot.TEXT, snapshot.TRANSFORMER, snapshot.VAE):
        yield from shards.damages(folder / part)
    yield from _changed_blobs(folder)
    yield from _said_by(snapshot.Snapshot, folder)


def _said_by(check: Callable[[Path], object], folder: Path) -> Iterator[str]:
    try:
        check(folder)
    except UserError as error:
        yield str(error)


def _changed_blobs(folder: Path) -> Iterator[str]:
    """Files whose digest is not their name: in the hub's cache, large files are links to blobs/SHA-256."""
    for path in sorted(folder.rglob("*.safetensors")):
        blob = path.resolve()
        if blob.parent.name == "blobs" and re.fullmatch("[0-9a-f]{64}", blob.name) and file_digest(blob) != blob.name:
            yield f"{path} has changed since it was fetched: its digest is not {blob.name[:12]}...; fetch it again"
