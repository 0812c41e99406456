"""Writes the weights of all processes as one file."""

from pathlib import Path

from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.runtime.processes import is_first
from cogvideo_jax.runtime.weights import save_weights


def export(path: Path, tree: PyTree, description: dict) -> None:
    """Gathers the weights of all processes; the first writes them."""
    whole = meshes.to_host(tree)
    if is_first():
        save_weights(path, whole, description, replace=True)
