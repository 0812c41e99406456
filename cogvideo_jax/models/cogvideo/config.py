"""Sizes of a transformer, and the presets of the 2022 release and of the demo."""

import dataclasses
from enum import StrEnum

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.layout import ClipLayout, base_layout, interpolation_layout, keyframe_layout
from cogvideo_jax.runtime.schemas import STRICT, Dropout, Few, Index, Size, check


class Compat(StrEnum):
    """Code that cached sampling follows where the released cache code and training code disagree.

    EXACT: cached sampling equals the training model at every step.
    RELEASE: cached sampling makes the same decisions as the released cache code:
      - context frames of shifted layers attend across the picture's border (their prefill has no region mask);
      - the text weight is left out of the temporal channel's prefill, and of the guidance rows' steps;
      - the last token of the first frame is drawn with the settings of the later frames.
    """

    EXACT = "exact"
    RELEASE = "release"


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
    """Dimensions of a base (one channel) or video (two channels) transformer.

    Attributes:
      layout: text length, grid, frames and their order.
      vocab_size: V, rows of the embedding table, which is also the output head.
      image_codes: C; ids 0..C-1 can be generated.
      boi: input id that starts every frame.
      width: D.  heads: A.  layers: G.  mlp_width: F.
      base_positions: rows of the inherited position table (text, and the frame of time 0).
      first_frame_position: row of that table for the first token of the frame of time 0.
      extra_positions: rows of the added position table (frames of time 1 and later); 0 in the base.
      temporal: True adds the temporal channel (attention-plus) to every layer.
      window: side of the temporal channel's windows in tokens, None for full attention. Odd layers shift by half.
      dropout: rate on embeddings, attention probabilities and MLP output while training.
    """

    __pydantic_config__ = STRICT

    layout: ClipLayout
    vocab_size: Size
    image_codes: Size
    boi: Index
    width: Size
    heads: Size
    layers: Few
    mlp_width: Size
    base_positions: Size
    first_frame_position: Index
    extra_positions: Index
    temporal: bool
    window: Size | None
    dropout: Dropout

    def __post_init__(self):
        layout = self.layout
        if self.width % self.heads:
            raise UserError(f"width {self.width} is not a multiple of heads {self.heads}")
        if self.window is not None and layout.grid % self.window:
            raise UserError(f"grid {layout.grid} is not a multiple of window {self.window}")
        if not 0 <= self.boi < self.vocab_size or self.image_codes > self.vocab_size:
            raise UserError(f"boi {self.boi} and image_codes {self.image_codes} must fit vocab {self.vocab_size}")
        if self.first_frame_position < layout.text_length:
            raise UserError(f"first_frame_position {self.first_frame_position} is inside the text")
        if self.base_positions < self.first_frame_position + layout.frame_tokens:
            raise UserError(f"base_positions {self.base_positions} end inside the first frame")
        if self.extra_positions < (max(layout.frame_times) if self.temporal else 0) * layout.frame_tokens:
            raise UserError(f"extra_positions {self.extra_positions} are too few for {layout.frames} frames")

    @property
    def head_size(self) -> int:
        """K."""
        return self.width // self.heads


def from_dict(values: dict) -> TransformerConfig:
    """The inverse of `dataclasses.asdict`. Raises UserError if a key is wrong, missing or unknown."""
    return check(values, TransformerConfig, where="the transformer's configuration")


def _released(layout: ClipLayout, **changes) -> TransformerConfig:
    """Preset of the release: 48 layers of width 3072 over icetk's 150,010 rows."""
    sizes = dict(
        layout=layout,
        vocab_size=150_010,
        image_codes=20_000,
        boi=150_000,
        width=3072,
        heads=48,
        layers=48,
        mlp_width=12_288,
        base_positions=1024,
        first_frame_position=512,
        extra_positions=2000,
        temporal=True,
        window=None,
        dropout=0.1,
    )
    return TransformerConfig(**{**sizes, **changes})


def cogview2() -> TransformerConfig:
    """CogView2, the inherited text-to-image model, which also writes the first frame."""
    return _released(base_layout(text_length=64, grid=20), temporal=False, extra_positions=0)


def cogvideo_stage1() -> TransformerConfig:
    """Stage 1: sequential generation of five key frames, with full temporal attention."""
    return _released(keyframe_layout(text_length=64, grid=20))


def cogvideo_stage2() -> TransformerConfig:
    """Stage 2: interpolation of two frames between three, with shifted windows of 10 x 10."""
    return _released(interpolation_layout(text_length=64, grid=20), window=10)


def _demo(layout: ClipLayout, **changes) -> TransformerConfig:
    """Preset that two laptop cores can train: 64 x 64 pixels as 8 x 8 tokens of 1,024 codes, 640 text pieces."""
    sizes = dict(
        layout=layout,
        vocab_size=1667,
        image_codes=1024,
        boi=1664,
        width=128,
        heads=4,
        layers=4,
        mlp_width=512,
        base_positions=88,
        first_frame_position=24,
        extra_positions=256,
        temporal=True,
        window=None,
        dropout=0.0,
    )
    return TransformerConfig(**{**sizes, **changes})


def demo_base() -> TransformerConfig:
    """Base of the demo, which writes one frame."""
    return _demo(base_layout(text_length=24, grid=8), temporal=False, extra_positions=0)


def demo_stage1() -> TransformerConfig:
    """Stage 1 of the demo."""
    return _demo(keyframe_layout(text_length=24, grid=8))


def demo_stage2() -> TransformerConfig:
    """Stage 2 of the demo, with full attention: 8 x 8 tokens are too few for windows."""
    return _demo(interpolation_layout(text_length=24, grid=8))
