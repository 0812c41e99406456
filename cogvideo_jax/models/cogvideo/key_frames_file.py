"""Key frames of stage 1 on disk, from which stage 2 continues: image codes and a description, a few kilobytes."""

import math
from pathlib import Path
from typing import Annotated, Literal, NamedTuple

import numpy as np
from pydantic import Field

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Array, Int
from cogvideo_jax.runtime.safetensors_stream import Leaf, read_leaf
from cogvideo_jax.runtime.schemas import SMALL_FILE, Digest, FrameRate, Schema
from cogvideo_jax.runtime.weights import read_description, save_weights

SUFFIX = ".keyframes"


class Description(Schema):
    """Metadata of the ids.

    Attributes:
      prompt: prompt of the video.
      fps: frames/s of the key frames.
      tokenizer: fingerprint of the tokenizer of the ids.
    """

    kind: Literal["keyframes"]
    prompt: Annotated[str, Field(min_length=1, max_length=10_000)]
    fps: FrameRate
    tokenizer: Digest


class KeyFrames(NamedTuple):
    """Key frames of one video.

    Attributes:
      ids: image codes.
      prompt: prompt of the video.
      fps: frames/s.
    """

    ids: Int[np.ndarray, "T N"]
    prompt: str
    fps: float


def write_key_frames(
    path: Path, ids: Int[Array, "T N"], *, prompt: str, fps: float, tokenizer: str, replace: bool = False
) -> list[Path]:
    """Writes a file with the suffix `.keyframes`; returns its path in a list. Raises UserError as `whole_file` does.

    Args:
      fps: frames/s of the key frames.
      tokenizer: fingerprint of the tokenizer of the ids.
    """
    path = path.with_suffix(SUFFIX)
    description = Description(kind="keyframes", prompt=prompt, fps=float(fps), tokenizer=tokenizer)
    save_weights(path, {"ids": np.asarray(ids, np.int32)}, description.model_dump(), replace=replace)
    return [path]


def read_key_frames(path: Path, *, tokenizer: str, codes: int) -> KeyFrames:
    """Reads a file of `write_key_frames` for interpolation.

    Args:
      tokenizer: fingerprint of the tokenizer in use.
      codes: C, its number of image codes.

    Raises:
      UserError: the file is missing, of another kind or from another tokenizer, or its ids cannot be key frames.
    """
    leaves, description = read_description(path, Description)
    if description.tokenizer != tokenizer:
        raise UserError(f"{path} was made with another tokenizer than these weights have")
    if set(leaves) != {"ids"}:
        raise UserError(f"{path} has no key frames; `cogvideo generate --key-frames` writes them")
    _check_shape(path, leaves["ids"])
    ids = read_leaf(path, "ids")
    if ids.min() < 0 or ids.max() >= codes:
        raise UserError(f"{path}: ids are {ids.min()}..{ids.max()}; these weights have the codes 0..{codes - 1}")
    return KeyFrames(ids, description.prompt, description.fps)


def _check_shape(path: Path, ids: Leaf) -> None:
    if ids.dtype != np.int32 or len(ids.shape) != 2 or ids.nbytes > SMALL_FILE:
        raise UserError(f"{path}: ids are {ids.dtype} of shape {list(ids.shape)}; expected int32 [frames, tokens]")
    frames, tokens = ids.shape
    if frames < 3 or frames % 2 == 0:
        raise UserError(f"{path}: ids are of {frames} frames; interpolation needs an odd number of at least 3")
    if tokens < 1 or math.isqrt(tokens) ** 2 != tokens:
        raise UserError(f"{path}: ids have {tokens} tokens a frame, which do not form a square grid")
