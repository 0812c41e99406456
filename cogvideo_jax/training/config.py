"""Settings that every training task has. A task's own schema is a subclass; every key stands in the config file."""

import dataclasses
from typing import Annotated

from pydantic import Field

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.schemas import STRICT, NotNegative, NotNegativeFloat, Positive, PositiveFloat, Share, Text

FilePath = Annotated[str, Field(min_length=1, max_length=4096, pattern=r"^[^\x00]*$")]
Decay = Annotated[float, Field(ge=0, lt=1)]


@dataclasses.dataclass(frozen=True)
class MeshConfig:
    """Devices along each axis of the mesh (runtime/mesh.py); one may be -1 and takes what is left."""

    __pydantic_config__ = STRICT

    data: Annotated[int, Field(ge=-1, le=2**20)]
    fsdp: Annotated[int, Field(ge=-1, le=2**20)]
    tensor: Annotated[int, Field(ge=-1, le=2**20)]

    def __post_init__(self):
        sizes = dataclasses.astuple(self)
        if 0 in sizes or sizes.count(-1) > 1:
            raise UserError(
                f"the axes data, fsdp, tensor are {sizes}; expected positive numbers, at most one of them -1"
            )


@dataclasses.dataclass(frozen=True)
class OptimizerConfig:
    """AdamW or Muon, and its schedule (training/optimizer.py).

    Attributes:
      learning_rate: peak, after `warmup_steps`; a cosine then lowers it to `final_fraction` of the peak.
      b1, b2, eps, weight_decay: of AdamW.
      clip_norm: largest global norm of the gradients.
      muon: matrices of the layers take orthogonalised steps.
    """

    __pydantic_config__ = STRICT

    learning_rate: PositiveFloat
    warmup_steps: NotNegative
    final_fraction: Share
    b1: Decay
    b2: Decay
    eps: PositiveFloat
    weight_decay: NotNegativeFloat
    clip_norm: PositiveFloat
    muon: bool


@dataclasses.dataclass(frozen=True)
class ValidationConfig:
    """Loss on held-out clips; off if `every` or `share` is 0, and then no clip is held out.

    Attributes:
      every: steps from one validation to the next.
      batches: of `batch_size` examples each.
      share: of the clips, chosen by their names, that training never reads.
    """

    __pydantic_config__ = STRICT

    every: NotNegative
    batches: Annotated[int, Field(gt=0, le=10_000)]
    share: Annotated[float, Field(ge=0, le=0.5)]

    @property
    def held_out(self) -> float:
        """Share of the clips that training does not read."""
        return self.share if self.every else 0.0


@dataclasses.dataclass(frozen=True, kw_only=True)
class SampleConfig:
    """Samples of what was learned so far, below WORKDIR/samples; of one process only. A task adds what it samples.

    Attributes:
      every: steps from one to the next; 0 for none.
    """

    __pydantic_config__ = STRICT

    every: NotNegative


@dataclasses.dataclass(frozen=True, kw_only=True)
class TrainConfig:
    """Settings of the loop.

    Attributes:
      family, part: which task this is.
      seed: of parameters, order of the data, and dropout; grain takes 32 bits.
      steps: updates in all.
      batch_size: examples a step, of all devices together.
      log_every, checkpoint_every: steps.
      keep_checkpoints: how many of the newest stay.
      ema: decay of the average of the weights (training/ema.py); 0 for none.
      tensorboard: also write the figures below WORKDIR/tensorboard.
    """

    __pydantic_config__ = STRICT

    family: Text
    part: Text
    seed: Annotated[int, Field(ge=0, lt=2**31)]
    steps: Positive
    batch_size: Positive
    log_every: Positive
    checkpoint_every: Positive
    keep_checkpoints: Positive
    mesh: MeshConfig
    optimizer: OptimizerConfig
    ema: Decay
    validation: ValidationConfig
    samples: SampleConfig
    tensorboard: bool

    def __post_init__(self):
        warmup = self.optimizer.warmup_steps
        if warmup >= self.steps:
            raise UserError(f"optimizer.warmup_steps={warmup} must be fewer than steps={self.steps}")
