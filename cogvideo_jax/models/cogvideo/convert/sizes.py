"""Sizes of an official transformer: from `model_config.json`, else from shapes, else those of the release.

In: an open checkpoint and its part. Out: the configuration of our model; and back. Keys have their official names (see
`settings.py`).
"""

import dataclasses
import math
import re
from typing import Any

from cogvideo_jax.convert.checkpoint_files import Checkpoint
from cogvideo_jax.errors import ConversionError
from cogvideo_jax.models.cogvideo import config as video_presets
from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.convert.parts import STAGES, Part
from cogvideo_jax.models.cogvideo.layout import base_layout, interpolation_layout, keyframe_layout
from cogvideo_jax.models.cogvideo.superres import config as superres_presets
from cogvideo_jax.models.cogvideo.superres.config import CoarseGrid, SuperResolutionConfig

Config = TransformerConfig | SuperResolutionConfig

HEAD_SIZE = 64  # of every released transformer; cannot be read off shapes
BOI = "<start_of_image>"
LARGEST = {"num_layers": 1000}  # limits, so that a crafted file cannot make us enumerate forever
RELEASED = {
    Part.BASE: video_presets.cogview2,
    Part.STAGE1: video_presets.cogvideo_stage1,
    Part.STAGE2: video_presets.cogvideo_stage2,
    Part.SUPERRES: superres_presets.cogview2_direct,
    Part.ITERSR: superres_presets.cogview2_iterative,
}
TOKEN_TABLE = "transformer.word_embeddings.weight"
ADDED_POSITIONS = "mixins.extra_position_embedding.position_embeddings.weight"


def read_config(checkpoint: Checkpoint, part: Part, *, heads: int | None) -> Config:
    """Configuration of a transformer; `model_config.json` goes before shapes.

    Args:
      heads: attention heads, if neither `model_config.json` nor the usual head size gives them.

    Raises:
      ConversionError: sizes that are unknown, are not numbers, or do not fit together.
    """
    released = RELEASED[part]()
    try:
        changes = _common(checkpoint, released, heads)
        changes |= _superres(checkpoint, released) if part in (Part.SUPERRES, Part.ITERSR) else {}
        changes |= _video(checkpoint, released, part) if part in (Part.BASE, *STAGES) else {}
        return dataclasses.replace(released, **changes)
    except ConversionError:
        raise
    except ValueError as error:
        raise ConversionError(f"{checkpoint.source} does not have the sizes of {part}: {error}") from error


def _common(checkpoint: Checkpoint, released: Config, heads: int | None) -> dict:
    """Sizes that all transformers have."""
    width = _number(checkpoint, "hidden_size", _side(checkpoint, TOKEN_TABLE, 1))
    usual = 0 if width % HEAD_SIZE else width // HEAD_SIZE
    layers = {m[1] for name in checkpoint.leaves if (m := re.match(r"transformer\.layers\.(\d{1,6})\.", name))}
    inner = _side(checkpoint, "transformer.layers.0.mlp.dense_h_to_4h.bias", 0)
    positions = _side(checkpoint, "transformer.position_embeddings.weight", 0)
    vocab_size = _number(checkpoint, "vocab_size", _side(checkpoint, TOKEN_TABLE, 0))
    return dict(
        width=width,
        heads=_number(checkpoint, "num_attention_heads", usual) if heads is None else heads,
        layers=_number(checkpoint, "num_layers", len(layers)),
        mlp_width=_number(checkpoint, "inner_hidden_size", inner),
        vocab_size=vocab_size,
        base_positions=_number(checkpoint, "max_sequence_length", positions),
        image_codes=_number(checkpoint, "num_image_tokens", released.image_codes),
        boi=_boi(checkpoint, released, vocab_size),
        dropout=_told(checkpoint, "hidden_dropout", released.dropout),
    )


def _boi(checkpoint: Checkpoint, released: Config, vocab_size: int) -> int:
    boi = _told(checkpoint, "special_ids", {}).get(BOI, released.boi)
    if boi < vocab_size:
        return boi
    raise ConversionError(
        f'{checkpoint.source} needs "special_ids": {{"{BOI}": number below {vocab_size}}} in model_config.json'
    )


def _video(checkpoint: Checkpoint, released: TransformerConfig, part: Part) -> dict:
    usual = released.layout
    ends = [usual.text_length, usual.text_length + usual.frame_tokens, usual.length]
    text_length, first, *others = _layout(checkpoint, ends, at_least=2 if part == Part.BASE else 3)
    frame_tokens = first - text_length
    grid = _square_root(checkpoint, frame_tokens, "tokens of a frame")
    start = _number(checkpoint, "first_frame_position", released.first_frame_position)
    if part == Part.BASE:
        return dict(layout=base_layout(text_length=text_length, grid=grid), first_frame_position=start)
    make = keyframe_layout if part == Part.STAGE1 else interpolation_layout
    frames, rest = divmod(others[0] - text_length, frame_tokens)
    if rest:
        raise ConversionError(
            f"{checkpoint.source} has {frame_tokens} tokens a frame, but its frames do not end at {others[0]}"
        )
    window = _told(checkpoint, "window_size", released.window)
    return dict(
        layout=make(text_length=text_length, grid=grid, frames=frames),
        first_frame_position=start,
        extra_positions=_number(checkpoint, "additional_seqlen", _side(checkpoint, ADDED_POSITIONS, 0)),
        window=window if window and window > 0 else None,
    )


def _superres(checkpoint: Checkpoint, released: SuperResolutionConfig) -> dict:
    coarse = released.coarse
    ends = [released.text_length, released.length]
    if coarse is not None:
        ends.insert(1, released.text_length + coarse.grid**2)
    layout = _layout(checkpoint, ends, at_least=len(ends))
    kernel = _number(checkpoint, "kernel_size", released.fine_kernel[1])
    rows = _number(checkpoint, "kernel_rows", 2 * kernel - 1)  # ours; the release's kernels have these rows
    if coarse is not None:
        around = _number(checkpoint, "kernel_size2", coarse.kernel[0])
        grid = _square_root(checkpoint, layout[1] - layout[0], "coarse tokens")
        start = _number(checkpoint, "first_frame_position", coarse.first_position)
        coarse = CoarseGrid(grid, start, (around, around))
    fine_grid = _square_root(checkpoint, layout[-1] - layout[-2], "fine tokens")
    return dict(text_length=layout[0], coarse=coarse, fine_grid=fine_grid, fine_kernel=(rows, kernel))


def _told(checkpoint: Checkpoint, key: str, otherwise: Any) -> Any:
    """A setting, or `otherwise` if the file leaves it open."""
    return checkpoint.settings.get(key, otherwise)


def _number(checkpoint: Checkpoint, key: str, otherwise: int) -> int:
    """A setting that is a number; `otherwise` comes from shapes."""
    value, largest = _told(checkpoint, key, otherwise), LARGEST.get(key, 10**7)
    if not 0 < value <= largest:
        raise ConversionError(
            f"{checkpoint.source} has no usable {key}: got {value!r}, expected a number up to {largest}"
        )
    return value


def _side(checkpoint: Checkpoint, name: str, axis: int) -> int:
    """Length of one axis of an array; 0 if there is no such array."""
    shape = checkpoint.leaves[name].shape if name in checkpoint.leaves else ()
    return shape[axis] if axis < len(shape) else 0


def _layout(checkpoint: Checkpoint, otherwise: list[int], *, at_least: int) -> list[int]:
    """Ends of the text and of each picture or grid in the sequence."""
    layout = _told(checkpoint, "layout", otherwise)
    if len(layout) < at_least or sorted(set(layout)) != layout or layout[-1] >= 10**6:
        raise ConversionError(
            f"{checkpoint.source} has the layout {str(layout)[:80]}, expected numbers such as {otherwise}"
        )
    return layout


def _square_root(checkpoint: Checkpoint, tokens: int, what: str) -> int:
    if tokens < 1 or math.isqrt(tokens) ** 2 != tokens:
        raise ConversionError(f"{checkpoint.source} has {tokens} {what}, which do not form a square grid")
    return math.isqrt(tokens)


def to_settings(config: Config, part: Part) -> dict:
    """Contents of `model_config.json` for a configuration; the inverse of `read_config`."""
    settings = {
        "num_layers": config.layers,
        "hidden_size": config.width,
        "num_attention_heads": config.heads,
        "inner_hidden_size": config.mlp_width,
        "vocab_size": config.vocab_size,
        "max_sequence_length": config.base_positions,
        "hidden_dropout": config.dropout,
        "num_image_tokens": config.image_codes,
        "special_ids": {BOI: config.boi},
    }
    if isinstance(config, SuperResolutionConfig):
        ends = [config.text_length, config.length]
        if config.coarse is not None:
            ends.insert(1, config.text_length + config.coarse.grid**2)
            settings |= {
                "kernel_size2": config.coarse.kernel[0],
                "first_frame_position": config.coarse.first_position,
            }
        rows, columns = config.fine_kernel
        return settings | {"layout": ends, "kernel_size": columns, "kernel_rows": rows}
    layout = config.layout
    ends = [layout.text_length, layout.text_length + layout.frame_tokens, layout.length]
    settings |= {"layout": ends[:2] if part == Part.BASE else ends, "first_frame_position": config.first_frame_position}
    if part in STAGES:
        window = -1 if config.window is None else config.window
        stage = {"additional_seqlen": config.extra_positions, "window_size": window}
        settings |= stage | {"cogvideo_stage": STAGES.index(part) + 1}
    return settings
