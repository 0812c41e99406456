"""Schemas of the six training configs: ranges stand in the types, checks across keys in `__post_init__`."""

import dataclasses
from typing import Annotated, ClassVar, Literal

from pydantic import Field

from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Prompt
from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.superres.config import SuperResolutionConfig
from cogvideo_jax.models.cogvideo.training.vq_step import check_scales
from cogvideo_jax.models.cogvideo.transformer.transformer import Remat
from cogvideo_jax.models.cogvideo.vq.config import VQConfig
from cogvideo_jax.runtime.schemas import STRICT, NotNegative, NotNegativeFloat, Positive, PositiveFloat, Share
from cogvideo_jax.training.config import FilePath, OptionalPath, SampleConfig, TrainConfig

Rates = tuple[PositiveFloat, ...]  # frames a second
Byte = Annotated[int, Field(ge=0, le=255)]


@dataclasses.dataclass(frozen=True)
class VQTraining:
    """Keyword arguments of `vq_train_step`, which explains them."""

    __pydantic_config__ = STRICT

    commitment: NotNegativeFloat
    ema_decay: Share
    restart_below: NotNegativeFloat
    foreground_weight: NotNegativeFloat
    background: tuple[Byte, Byte, Byte]
    window: NotNegative
    scales: Annotated[tuple[Positive, ...], Field(min_length=1)]


@dataclasses.dataclass(frozen=True)
class FrameData:
    """Clips for the tokenizer: arguments of `open_source`, and how many frames of a clip stand in a batch."""

    __pydantic_config__ = STRICT

    name: FilePath
    size: Positive
    data_dir: FilePath
    train_clips: Positive
    test_clips: Positive
    frames_per_clip: Positive


@dataclasses.dataclass(frozen=True)
class TokenData:
    """Folder of a token cache, and the text model of its captions."""

    __pydantic_config__ = STRICT

    cache: FilePath
    text_model: FilePath


@dataclasses.dataclass(frozen=True)
class BaseExample:
    """Keyword arguments of `base_example`, which explains them."""

    __pydantic_config__ = STRICT

    first_frame_suffix: Annotated[str, Field(max_length=1000)]
    first_frame_probability: Share
    moment_probability: Share
    moments_a_second: PositiveFloat
    rates: Rates
    text_dropout: Share

    def __post_init__(self):
        first, moment = self.first_frame_probability, self.moment_probability
        if first + moment > 1:
            raise UserError(
                f"first_frame_probability={first} and moment_probability={moment} must not exceed 1 together"
            )


@dataclasses.dataclass(frozen=True)
class KeyFrameExample:
    """Keyword arguments of `keyframe_example`, which explains them."""

    __pydantic_config__ = STRICT

    rates: Annotated[Rates, Field(min_length=1)]
    text_dropout: Share


@dataclasses.dataclass(frozen=True)
class InterpolationExample:
    """Keyword arguments of `interpolation_example`, which explains them."""

    __pydantic_config__ = STRICT

    rates: Annotated[Rates, Field(min_length=1)]
    tiled: bool
    text_dropout: Share


@dataclasses.dataclass(frozen=True)
class FineExample:
    """Lowest and highest share of masked fine tokens, as `fine_example` takes them."""

    __pydantic_config__ = STRICT

    mask_ratios: tuple[Share, Share]

    def __post_init__(self):
        if self.mask_ratios[0] > self.mask_ratios[1]:
            raise UserError(f"mask_ratios={self.mask_ratios} must be the lowest and the highest share, in this order")


@dataclasses.dataclass(frozen=True, kw_only=True)
class FrameSamples(SampleConfig):
    """Frames beside their reconstructions.

    Attributes:
      frames: how many.
    """

    frames: Annotated[int, Field(gt=0, le=1000)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class ClipSamples(SampleConfig):
    """Clips of prompts.

    Attributes:
      prompts: one a clip.
      weights: folder with the other parts of the model, of the same sizes; "" for the demo's.
    """

    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1, max_length=1000)]
    weights: OptionalPath


@dataclasses.dataclass(frozen=True, kw_only=True)
class TokenizerConfig(TrainConfig):
    """Image tokenizer."""

    family: Literal["cogvideo"]
    part: Literal["tokenizer"]
    model: VQConfig
    vq: VQTraining
    data: FrameData
    samples: FrameSamples

    def __post_init__(self):
        super().__post_init__()
        frames = self.data.frames_per_clip
        if self.batch_size % frames:
            raise UserError(f"data.frames_per_clip={frames} does not divide the {self.batch_size} pictures of a batch")
        check_scales(self.vq.scales, self.batch_size, (self.data.size,) * 2, window=self.vq.window)


@dataclasses.dataclass(frozen=True, kw_only=True)
class BackboneConfig(TrainConfig):
    """What all transformers share.

    Attributes:
      dtype: of activations and of the frozen parameters; those that train are float32.
      remat: what of a layer is computed again in the backward pass.
      microbatches: parts of a batch that are read one after the other.
      attention: "auto", or a Kernel of nn/attention.py.
    """

    changeable: ClassVar[frozenset[str]] = TrainConfig.changeable | {"remat", "microbatches", "attention"}

    family: Literal["cogvideo"]
    dtype: Literal["float32", "bfloat16"]
    remat: Remat
    microbatches: Positive
    attention: Literal["auto", "plain", "blocked", "splash", "interpreted", "cudnn"]
    model: TransformerConfig | SuperResolutionConfig
    data: TokenData
    samples: ClipSamples

    def __post_init__(self):
        super().__post_init__()
        if self.batch_size % self.microbatches:
            raise UserError(f"batch_size {self.batch_size} cannot be cut into {self.microbatches} microbatches")

    @property
    def base_file(self) -> str | None:
        """Weights that the part stands on."""
        return None

    @property
    def all_trained(self) -> bool:
        """Whether the parameters of the base are trained, too."""
        return True


@dataclasses.dataclass(frozen=True, kw_only=True)
class BaseConfig(BackboneConfig):
    """CogView2's part: text -> one frame."""

    part: Literal["base"]
    model: TransformerConfig
    example: BaseExample


@dataclasses.dataclass(frozen=True, kw_only=True)
class StageConfig(BackboneConfig):
    """What stage 1 and stage 2 share.

    Attributes:
      base: weights of the frozen base.
      attention_plus: weights of an earlier stage to start from; "" for none.
    """

    base: FilePath
    attention_plus: OptionalPath
    model: TransformerConfig

    @property
    def base_file(self) -> str:
        return self.base

    @property
    def all_trained(self) -> bool:
        return False


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage1Config(StageConfig):
    """Key frames."""

    part: Literal["stage1"]
    example: KeyFrameExample


@dataclasses.dataclass(frozen=True, kw_only=True)
class Stage2Config(StageConfig):
    """Frames between frames."""

    part: Literal["stage2"]
    example: InterpolationExample


@dataclasses.dataclass(frozen=True, kw_only=True)
class SuperResolutionTraining(BackboneConfig):
    """Direct and iterative super-resolution.

    Attributes:
      attention: "auto", "plain" or "blocked"; no fused kernel computes local attention.
      base: weights that it starts from.
      train_base: train the parameters of the base, too.
    """

    part: Literal["superres", "itersr"]
    attention: Literal["auto", "plain", "blocked"]
    base: FilePath
    train_base: bool
    model: SuperResolutionConfig
    example: FineExample

    def __post_init__(self):
        super().__post_init__()
        if (self.part == "superres") != (self.model.coarse is not None):
            raise UserError("model.coarse belongs to part superres, and must be None in part itersr")

    @property
    def base_file(self) -> str:
        return self.base

    @property
    def all_trained(self) -> bool:
        return self.train_base
