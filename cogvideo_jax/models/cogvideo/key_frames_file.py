"""Key frames in a file: a few kilobytes that stage 2 goes on from."""

from pathlib import Path

import numpy as np

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Int
from cogvideo_jax.runtime.weights import load_weights, save_weights


def write_key_frames(path: Path, ids: Int[np.ndarray, "T N"], *, prompt: str, fps: float, tokenizer: str) -> Path:
    """Writes ids, prompt, rate and the fingerprint of the tokenizer."""
    description = {"kind": "keyframes", "prompt": prompt, "fps": fps, "tokenizer": tokenizer}
    save_weights(path, {"ids": np.asarray(ids, np.int32)}, description)
    return path


def read_key_frames(path: Path, *, tokenizer: str) -> tuple[Int[np.ndarray, "T N"], str, float]:
    """Ids, prompt and frames a second.

    Raises:
      UserError: no such file, or one of another kind or another tokenizer.
    """
    tree, description = load_weights(path)
    if description.get("kind") != "keyframes" or set(tree) != {"ids"}:
        raise UserError(f"{path} holds no key frames; `cogvideo generate --key-frames` writes them")
    if description["tokenizer"] != tokenizer:
        raise UserError(f"{path} was made with another tokenizer than that of these weights")
    return tree["ids"], description["prompt"], description["fps"]
