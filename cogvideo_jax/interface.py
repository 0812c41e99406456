"""The objects that families, commands and tools speak through.

    prompt -> Request -> Sampler.steps(request) -> Step, Step, ... -> Clips

A sampler turns a request into a list of steps. Running, the memory plan, the progress bar, the benchmark and
`--dry-run` all walk this list, so the chain of a family is written once.
"""

import abc
import dataclasses
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, field_validator, model_validator

from cogvideo_jax.notation import Array, Key, UInt8
from cogvideo_jax.runtime.schemas import NotNegative, PositiveFloat, Schema, Seed

LONGEST_PROMPT = 10_000  # characters
Prompt = Annotated[str, Field(max_length=LONGEST_PROMPT)]


class Start(NamedTuple):
    """A video to go on from.

    Attributes:
      frames: pictures, or features such as token ids, of one clip.
      fps: frames a second.
    """

    frames: np.ndarray
    fps: float


class Request(Schema):
    """What is to be made. A family takes some of the optional fields and refuses the others.

    Attributes:
      prompts: one sentence a video.
      seeds: one a video; 0 by default.
      copies: which of several videos of one prompt and seed each is; 0 by default.
      output: whole videos, their key frames alone, or single pictures.
      fps: frames a second of the result; by default the most that the weights give.
      seconds: length; by default the shortest that the weights give.
      guidance: scale of classifier-free guidance; 1 turns it off.
      first_image: the first frame of every video.
      start: a video whose frame rate is to be raised.
      superres: super-resolution, where the weights have it.
      compat: whose arithmetic to follow where released codes disagree.
    """

    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1)]
    seeds: tuple[Seed, ...] = ()
    copies: tuple[NotNegative, ...] = ()
    output: Literal["video", "key_frames", "image"] = "video"
    fps: PositiveFloat | None = None
    seconds: PositiveFloat | None = None
    guidance: Annotated[float, Field(ge=0, le=1e4)] | None = None
    first_image: np.ndarray | None = None
    start: Start | None = None
    superres: bool = True
    compat: Literal["exact", "release"] = "exact"

    @field_validator("prompts")
    @classmethod
    def _not_empty(cls, prompts: tuple[str, ...]) -> tuple[str, ...]:
        if not all(prompt.strip() for prompt in prompts):
            raise ValueError("the prompt is empty; say what the video shows")
        return prompts

    @model_validator(mode="after")
    def _one_each(self) -> "Request":
        for name in ("seeds", "copies"):
            if len(getattr(self, name)) not in (0, len(self.prompts)):
                raise ValueError(f"expected one of {name} for each of {len(self.prompts)} prompts")
        return self

    def asked(self) -> set[str]:
        """Optional fields that differ from their defaults."""
        fields = type(self).model_fields
        return {name for name in self.model_fields_set if getattr(self, name) is not fields[name].default}

    def keys(self) -> Key[Array, "B"]:
        """One random key a video; it depends on the video's seed and copy only."""
        none = (0,) * len(self.prompts)
        pairs = zip(self.seeds or none, self.copies or none)
        return jnp.stack([jax.random.fold_in(jax.random.key(seed), copy) for seed, copy in pairs])


class Clips(NamedTuple):
    """What the last step returns.

    Attributes:
      frames: of every prompt.
      fps: frames a second.
      features: of key frames, what `Sampler.save_key_frames` keeps for a later request; else None.
    """

    frames: UInt8[np.ndarray, "B T H W 3"]
    fps: float
    features: np.ndarray | None = None


class StepMemory(NamedTuple):
    """Bytes of a step beside what its programs work in.

    Attributes:
      own: parameters that its programs take, on each device.
      resident: all parameters on each device while it runs, its own among them.
      loading: host memory while its parameters are read.
      host: host memory while it runs.
    """

    own: int
    resident: int
    loading: int = 0
    host: int = 0


@dataclasses.dataclass(frozen=True)
class Step:
    """One link of a chain.

    Attributes:
      name: what it makes, in a word or two.
      calls: how often `run` reports progress, each time after one call of the last of its programs.
      programs: lowers what `run` will call; nothing is loaded for it.
      memory: what it takes beside its programs' work.
      run: (result of the step before, called after each call) -> result.
      rows: rows of one call.
      shrinks: whether fewer rows a call may be asked for.
      advice: what a user can change if it does not fit.
    """

    name: str
    calls: int
    programs: Callable[[], Sequence[jax.stages.Lowered]]
    memory: Callable[[], StepMemory]
    run: Callable[[Any, Callable[[], None]], Any]
    rows: int = 1
    shrinks: bool = False
    advice: str = ""


class Sampler(abc.ABC):
    """Opened weights of one family; no transformer is loaded before a step runs."""

    takes: ClassVar[frozenset[str]] = frozenset()  # optional fields of Request that the family knows

    @abc.abstractmethod
    def check(self, request: Request) -> list[str]:
        """Warnings about a request that can be made. Raises UserError for one that cannot."""

    @abc.abstractmethod
    def fps(self, request: Request) -> float:
        """Frames a second of the result. Raises UserError for what the weights cannot give."""

    @abc.abstractmethod
    def steps(self, request: Request, rows: Mapping[str, int] | None = None) -> list[Step]:
        """The chain; the first step gets None, the last returns Clips.

        Args:
          rows: step name -> most rows a call, for steps that shrink.
        """


@dataclasses.dataclass(frozen=True)
class Opening:
    """How weights are opened.

    Attributes:
      dtype: in which matrices are kept and multiplied; None for float32 on a CPU, else bfloat16.
      one_stage_at_a_time: let go of one part's weights before the next is loaded.
      int8: what is kept as int8: "weights", "cache".
      growing_cache: a program for every number of frames, which reads no frames that do not exist yet.
    """

    dtype: str | None = None
    one_stage_at_a_time: bool = False
    int8: tuple[str, ...] = ()
    growing_cache: bool = False


class Encoder(abc.ABC):
    """Turns clips into what a family trains on."""

    fingerprint: str

    @abc.abstractmethod
    def encode(self, frames: UInt8[np.ndarray, "T H W 3"]) -> np.ndarray:
        """Features of frames."""

    @abc.abstractmethod
    def finish(self, cache: Any) -> None:
        """Adds to a finished cache what training reads beside the clips."""


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models; `models/registry.py` names all of them.

    Attributes:
      name: as in `pipeline.json` and in training configs.
      open: folder of weights, how -> sampler.
      tasks: name -> what `cogvideo train` trains: see `training.task.Task`.
      encoder: opens what `cogvideo tokenize` encodes with.
      benchmarks: name -> what `cogvideo bench` measures.
      convert: foreign checkpoints <-> ours.
      assemble: trained parts -> a folder of weights.
    """

    name: str
    open: Callable[[Path, Opening], Sampler]
    tasks: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    encoder: Callable[..., Encoder] | None = None
    benchmarks: Mapping[str, Any] = dataclasses.field(default_factory=dict)
    convert: Any = None
    assemble: Any = None
