"""Sampling settings of a folder of weights: its `pipeline.json`."""

import dataclasses
import json
from pathlib import Path
from typing import Annotated, Literal

from pydantic import AliasChoices, Field

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.sampling.logits import FIRST_FRAME, VIDEO, Strategy
from cogvideo_jax.models.cogvideo.superres.sample import DIRECT, RefineSettings
from cogvideo_jax.models.cogvideo.text import FIRST_FRAME_SUFFIX
from cogvideo_jax.runtime.files import write_text
from cogvideo_jax.runtime.schemas import STRICT, FrameRate, Size, read_json

FILE = "pipeline.json"
LARGEST = 1 << 20  # bytes of such a file
Rates = Annotated[tuple[FrameRate, ...], Field(min_length=1, max_length=100)]
Suffix = Annotated[str, Field(max_length=1000)]


@dataclasses.dataclass(frozen=True, kw_only=True)
class SamplingConfig:
    """Sampling settings of a folder of weights.

    Attributes:
      family: family of models; files without it belong to this one.
      pixels: side of the square frames that the stages write, before super-resolution.
      keyframe_fps: frame rates at which stage 1 was trained; a clip lasts (T - 1) / rate seconds.
      interpolation_fps: frame rates that stage 2 can produce.
      first_frame, keyframes, interpolation, superres: sampling strategy of each step.
      first_frame_suffix: added to the prompt for the base.
      guidance: scale in stage 1; None for no guidance.
      guided_suffix: added to the prompt in stage 1 with guidance.
      text_log_weight: added to text scores where there is no guidance.
      windows_per_call: interpolation windows in one call of stage 2; None for all windows of the last pass, or as many
        as fit into memory.
      superres_per_call, decoded_per_call: frames in one call of super-resolution and of the decoder.
      whole_words: every word of the training data is one piece of the text model, so that a word in several pieces is
        unknown to the weights.
      iterative_superres: settings of refinement by `itersr` after the direct pass; None leaves it out.
    """

    __pydantic_config__ = STRICT

    family: Literal["cogvideo"] = "cogvideo"
    pixels: Annotated[int, Field(gt=0, le=8192)]
    keyframe_fps: Rates
    interpolation_fps: Rates
    first_frame: Strategy
    keyframes: Strategy
    interpolation: Strategy
    superres: Strategy
    first_frame_suffix: Suffix
    guidance: Annotated[float, Field(ge=0, le=1e4)] | None
    guided_suffix: Suffix
    text_log_weight: Annotated[float, Field(ge=-1000, le=1000)]
    windows_per_call: Size | None
    # the second name is that of older files
    superres_per_call: Annotated[Size, Field(validation_alias=AliasChoices("superres_per_call", "enlarged_per_call"))]
    decoded_per_call: Size
    whole_words: bool
    iterative_superres: RefineSettings | None = None

    def __post_init__(self):
        for name in ("keyframe_fps", "interpolation_fps"):
            rates = getattr(self, name)
            if len(set(rates)) < len(rates):
                raise UserError(f"{name} names a rate twice: {rates}")

    def pass_rates(self, rate: float, to: float | None) -> list[float]:
        """Frame rates after each interpolation pass from `rate` to `to`, by default the highest.

        Raises:
          UserError: `to` cannot be reached.
        """
        rates = [rate]
        while rates[-1] * 2 in self.interpolation_fps:
            rates.append(rates[-1] * 2)
        to = rates[-1] if to is None else to
        if to not in rates:
            possible = ", ".join(f"{rate:g}" for rate in rates)
            raise UserError(f"these weights give {possible} frames a second, not {to:g}")
        return rates[1 : rates.index(to) + 1]


# The flags of the released script, whose stage 1 was last trained at 1 frame/s and more (paper section 4).
RELEASED = SamplingConfig(
    pixels=160,
    keyframe_fps=(1.0,),
    interpolation_fps=(2.0, 4.0, 8.0),
    first_frame=FIRST_FRAME,
    keyframes=VIDEO,
    interpolation=VIDEO,
    superres=DIRECT,
    first_frame_suffix=FIRST_FRAME_SUFFIX,
    guidance=3.0,
    guided_suffix=" 视频",
    text_log_weight=1.4,
    windows_per_call=None,
    superres_per_call=12,
    decoded_per_call=4,
    whole_words=False,
)


def read_sampling_config(path: Path) -> SamplingConfig:
    """Reads `pipeline.json`. Raises UserError if it is missing or does not fit."""
    if not path.is_file():
        raise UserError(f"{path.parent} is not a folder of weights: it has no readable {path.name}")
    return read_json(path, SamplingConfig, limit=LARGEST)


def write_sampling_config(path: Path, sampling_config: SamplingConfig, *, replace: bool = False) -> None:
    """Writes `pipeline.json`. Raises UserError as `whole_file` does."""
    write_text(path, json.dumps(dataclasses.asdict(sampling_config), ensure_ascii=False, indent=1), replace=replace)
