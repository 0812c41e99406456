"""Sizes of a super-resolution model, and the presets of the 2022 release and of the demo."""

import dataclasses
from typing import Annotated

from pydantic import Field

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.schemas import STRICT, Dropout, Few, Index, Size, check


@dataclasses.dataclass(frozen=True)
class CoarseGrid:
    """Coarse picture that the direct model reads.

    Attributes:
      grid: side of its token grid.
      first_position: row of the inherited position table for its first token. The release reads rows 513..912 here, but
        512..911 in the video model; its weights were trained that way.
      kernel: rows and columns of coarse tokens that a fine token looks at.
    """

    __pydantic_config__ = STRICT

    grid: Few
    first_position: Index
    kernel: tuple[Few, Few]


@dataclasses.dataclass(frozen=True)
class SuperResolutionConfig:
    """Dimensions of a direct or an iterative model.

    Attributes:
      text_length: S, text tokens (left-padded).
      coarse: coarse picture; None in the iterative model, which reads fine tokens only.
      fine_grid: h = w, side of the fine token grid.
      fine_kernel: rows and columns of fine tokens that a fine token looks at, itself in the middle.
      vocab_size: V.  image_codes: C.  boi: input id of an unknown fine token.
      width: D.  heads: A.  layers: G.  mlp_width: F.
      base_positions: rows of the inherited position table (text and coarse tokens); fine tokens have their own.
      dropout: rate on embeddings, attention probabilities and MLP output while training.
    """

    __pydantic_config__ = STRICT

    text_length: Annotated[int, Field(gt=0, le=100_000)]
    coarse: CoarseGrid | None
    fine_grid: Few
    fine_kernel: tuple[Few, Few]
    vocab_size: Size
    image_codes: Size
    boi: Index
    width: Size
    heads: Size
    layers: Few
    mlp_width: Size
    base_positions: Size
    dropout: Dropout

    def __post_init__(self):
        if self.width % self.heads:
            raise UserError(f"width {self.width} is not a multiple of heads {self.heads}")
        if not 0 <= self.boi < self.vocab_size or self.image_codes > self.vocab_size:
            raise UserError(f"boi {self.boi} and image_codes {self.image_codes} must fit vocab {self.vocab_size}")
        kernels = [self.fine_kernel, *([self.coarse.kernel] if self.coarse else [])]
        if any(side < 1 or side % 2 == 0 for kernel in kernels for side in kernel):
            raise UserError(f"the sides of a kernel must be odd, got {kernels}")
        if self.coarse is not None:
            self._check_coarse(self.coarse)

    def _check_coarse(self, coarse: CoarseGrid) -> None:
        if self.fine_grid % coarse.grid:
            raise UserError(f"fine grid {self.fine_grid} is not a multiple of coarse grid {coarse.grid}")
        if coarse.first_position < self.text_length:
            raise UserError(f"the coarse grid's first position {coarse.first_position} is inside the text")
        if self.base_positions < coarse.first_position + coarse.grid**2:
            raise UserError(f"base_positions {self.base_positions} end inside the coarse grid")

    @property
    def head_size(self) -> int:
        """K."""
        return self.width // self.heads

    @property
    def fine_tokens(self) -> int:
        """N, number of fine tokens."""
        return self.fine_grid**2

    @property
    def extra_positions(self) -> int:
        """Rows of the added position table, one per fine token."""
        return self.fine_tokens

    @property
    def length(self) -> int:
        """L, number of text, coarse (if any) and fine tokens."""
        return self.text_length + (self.coarse.grid**2 if self.coarse else 0) + self.fine_tokens


def from_dict(values: dict) -> SuperResolutionConfig:
    """The inverse of `dataclasses.asdict`. Raises UserError if a key is wrong, missing or unknown."""
    return check(values, SuperResolutionConfig, where="the super-resolution model's configuration")


def _released(**sizes) -> SuperResolutionConfig:
    """Preset of the release: 48 layers of width 3072 over icetk's 150,010 rows, 60 x 60 tokens, kernel 9 x 5."""
    return SuperResolutionConfig(
        **sizes,
        fine_grid=60,
        fine_kernel=(9, 5),
        vocab_size=150_010,
        image_codes=20_000,
        boi=150_000,
        width=3072,
        heads=48,
        layers=48,
        mlp_width=12_288,
        base_positions=1024,
        dropout=0.1,
    )


def cogview2_direct() -> SuperResolutionConfig:
    """Direct model of the release, 20 x 20 -> 60 x 60 tokens in one pass."""
    return _released(text_length=96, coarse=CoarseGrid(grid=20, first_position=513, kernel=(5, 5)))


def cogview2_iterative() -> SuperResolutionConfig:
    """Iterative model of the release, which refines 60 x 60 tokens in rounds."""
    return _released(text_length=16, coarse=None)


def _demo(coarse: CoarseGrid | None, fine_kernel: tuple[int, int]) -> SuperResolutionConfig:
    """Preset for the demo's base: 192 x 192 pixels as 24 x 24 tokens."""
    return SuperResolutionConfig(
        text_length=24,
        coarse=coarse,
        fine_grid=24,
        fine_kernel=fine_kernel,
        vocab_size=1667,
        image_codes=1024,
        boi=1664,
        width=128,
        heads=4,
        layers=4,
        mlp_width=512,
        base_positions=88,
        dropout=0.0,
    )


def demo_direct() -> SuperResolutionConfig:
    """Direct model of the demo, 8 x 8 -> 24 x 24 tokens in one pass. Kernels are small, because all fine tokens are
    masked and an object covers only a few coarse ones.
    """
    return _demo(CoarseGrid(grid=8, first_position=24, kernel=(3, 3)), (3, 3))


def demo_iterative() -> SuperResolutionConfig:
    """Iterative model of the demo, which refines 24 x 24 tokens in rounds."""
    return _demo(None, (9, 5))
