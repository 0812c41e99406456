"""Weights by their name on the Hugging Face hub, such as THUDM/CogVideoX-2b: fetched once, then read without a network.

Descriptions, safetensors files and text models are fetched; pickles and code never are.
"""

import re
import textwrap
from pathlib import Path
from typing import Any

from absl import logging

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.files import reason

WORD = r"[A-Za-z0-9_](?:[A-Za-z0-9_.-]{0,94}[A-Za-z0-9_])?"
NAME = re.compile(rf"{WORD}/{WORD}")  # owner/name
FORBIDDEN = re.compile(r"--|\.\.|\.git$")  # in a name, as the hub has it
FILES = ["*.json", "*.safetensors", "*.model"]
LONGEST_REASON = 120  # characters of what the library says


def is_name(text: str) -> bool:
    """Whether a text looks like owner/name of a hub."""
    return NAME.fullmatch(text) is not None and FORBIDDEN.search(text) is None


def fetch(name: str) -> Path:
    """Folder of a snapshot in the hub's cache, fetched if it is not there.

    Raises:
      UserError: the text is no name of a hub, the library is missing, or the snapshot cannot be fetched.
    """
    if not is_name(name):
        raise UserError(f"{name!r} is no name of a hub; it should look like THUDM/CogVideoX-2b")
    try:
        from huggingface_hub import snapshot_download
    except ImportError as error:
        raise UserError(
            f'{name} is no folder here; to fetch it from the hub, install the extra with pip install ".[hub]"'
        ) from error
    found = _cached(snapshot_download, name)
    if found is not None:
        return found
    logging.info("fetching %s from the hub", name)
    try:
        return Path(snapshot_download(name, allow_patterns=FILES))
    except Exception as error:  # the library and the three below it raise nearly every kind when a network fails
        said = textwrap.shorten(reason(error), LONGEST_REASON, placeholder="...")
        raise UserError(
            f"{name} is no folder here and cannot be fetched from the hub ({said}); check the name and the network, or "
            "name a folder"
        ) from error


def _cached(snapshot_download: Any, name: str) -> Path | None:
    """The snapshot as it was fetched before; None if it was not, or not to the end."""
    try:
        folder = Path(snapshot_download(name, allow_patterns=FILES, local_files_only=True))
    except OSError:
        return None
    begun = (folder.parent.parent / "blobs").glob("*.incomplete")
    return None if any(begun) else folder
