"""The objects that families, commands and tools speak through.

    prompt -> Request -> Sampler.steps(request) -> Step, Step, ... -> Clips

A sampler turns a request into a list of steps. Running, the memory plan, the progress bar, the benchmark and
`--dry-run` all walk this list, so the chain of a family is written once.
"""

import abc
import dataclasses
import re
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, NamedTuple, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from pydantic import Field, field_validator, model_validator

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Array, Key, UInt8
from cogvideo_jax.runtime.rng import seed_key
from cogvideo_jax.runtime.schemas import NotNegative, Positive, PositiveFloat, Schema, Seed, make
from cogvideo_jax.runtime.text import plain_text

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


class Lora(Schema):
    """Low-rank changes of the weights.

    Attributes:
      path: their file.
      scale: factor of the changes.
    """

    path: Annotated[str, Field(min_length=1, max_length=4096)]
    scale: Annotated[float, Field(ge=-100, le=100)] = 1.0

    @classmethod
    def of(cls, text: str) -> "Lora":
        """The file and scale of "style.safetensors=0.8"; without a number behind the sign, all of it is the file."""
        path, scale = re.fullmatch(r"(.*?)(?:=([-+]?\d*\.?\d+))?", text, re.DOTALL).groups()  # type: ignore[union-attr]
        return make(cls, where=f"--lora {text}", path=path, scale=float(scale or 1))


class Request(Schema):
    """What is to be made. A family takes some of the optional fields and refuses the others.

    Attributes:
      prompts: one sentence a video; see `plain_text`.
      seeds: one a video; 0 by default.
      copies: which of several videos of one prompt and seed each is; 0 by default.
      output: whole videos, their key frames alone, or single pictures.
      fps: frames a second of the result; by default the most that the weights give.
      seconds: length; by default the shortest that the weights give.
      frames: length in frames, of families that count so.
      size: height and width in pixels.
      steps: of denoising.
      loras: files of low-rank changes.
      guidance: scale of classifier-free guidance; 1 turns it off.
      dynamic_guidance: let the scale change from step to step.
      negative_prompt: what guidance leads away from; nothing in particular by default.
      sampler: of denoising.
      first_image: the first frame of every video.
      start: a video whose frame rate is to be raised, or that is to be made anew in part.
      strength: share of the denoising that a start video goes through; 1 leaves nothing of it.
      superres: super-resolution, where the weights have it.
      compat: whose arithmetic to follow where released codes disagree.
    """

    prompts: Annotated[tuple[Prompt, ...], Field(min_length=1)]
    seeds: tuple[Seed, ...] = ()
    copies: tuple[NotNegative, ...] = ()
    output: Literal["video", "key_frames", "image"] = "video"
    fps: PositiveFloat | None = None
    seconds: PositiveFloat | None = None
    frames: Positive | None = None
    size: tuple[Positive, Positive] | None = None
    steps: Positive | None = None
    loras: tuple[Lora, ...] = ()
    guidance: Annotated[float, Field(ge=0, le=1e4)] | None = None
    dynamic_guidance: bool | None = None
    negative_prompt: Prompt | None = None
    sampler: Literal["ddim", "dpm"] | None = None
    first_image: np.ndarray | None = None
    start: Start | None = None
    strength: Annotated[float, Field(gt=0, le=1)] | None = None
    superres: bool = True
    compat: Literal["exact", "release"] = "exact"

    @model_validator(mode="before")
    @classmethod
    def _plain(cls, values: Any) -> Any:
        """Prompts in plain text, unless the released code is followed, which takes them as they are."""
        prompts = values.get("prompts")
        if values.get("compat", "exact") != "exact" or not isinstance(prompts, tuple | list):
            return values
        return values | {"prompts": tuple(plain_text(text) if isinstance(text, str) else text for text in prompts)}

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

    def of(self, prompts: Sequence[str], *, seeds: Sequence[int] = (), copies: Sequence[int] = ()) -> "Request":
        """The same wish for other prompts."""
        each = dict(prompts=tuple(prompts), seeds=tuple(seeds), copies=tuple(copies))
        return make_request(**{name: getattr(self, name) for name in self.model_fields_set} | each)

    def asked(self) -> set[str]:
        """Optional fields that differ from their defaults."""
        fields = type(self).model_fields
        return {name for name in self.model_fields_set if not _same(getattr(self, name), fields[name].default)}

    def keys(self) -> Key[Array, "B"]:
        """One random key a video; it depends on the video's seed and copy only."""
        none = (0,) * len(self.prompts)
        pairs = zip(self.seeds or none, self.copies or none)
        return jnp.stack([jax.random.fold_in(seed_key(seed), copy) for seed, copy in pairs])


def _same(value: Any, default: Any) -> bool:
    return value is default or (isinstance(value, str) and value == default)


def size_of(text: str, *, option: str) -> tuple[int, int]:
    """Height and width of "480x720", given as an option. Raises UserError for anything else."""
    found = re.fullmatch(r"(\d{1,6})x(\d{1,6})", text)
    if found is None:
        raise UserError(f"{option} {text!r} should look like 480x720: height, x, width")
    return int(found[1]), int(found[2])


def make_request(**fields: Any) -> Request:
    """A request of these fields. Raises UserError, in one sentence, if one of them cannot be."""
    return make(Request, where="the request", **fields)


class Features(Protocol):
    """Key frames as a family keeps them."""

    def save(self, path: Path, *, prompt: str, replace: bool = False) -> None:
        """Writes what `Sampler.read_start` reads; `replace` as in `whole_file`."""


class Clips(NamedTuple):
    """What the last step returns.

    Attributes:
      frames: of every prompt.
      fps: frames a second.
      features: of key frames, what a later request goes on from, one a video; else None.
    """

    frames: UInt8[np.ndarray, "B T H W 3"]
    fps: float
    features: Sequence[Features] | None = None


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


class Program(NamedTuple):
    """A program that a step calls.

    Attributes:
      lowered: ready to be compiled; XLA keeps the result for the call itself.
      calls: how often the step calls it.
    """

    lowered: jax.stages.Lowered
    calls: int


@dataclasses.dataclass(frozen=True)
class Step:
    """One link of a chain.

    Attributes:
      name: what it makes, in a word or two.
      calls: how often `run` reports progress.
      programs: lowers everything large that `run` calls; nothing is loaded for it. Steps that share programs share
        this very function.
      memory: what the step takes beside its programs' work.
      run: (result of the step before, reports progress) -> result.
      rows: batch rows of one call.
      flops: useful operations of all calls, counted from sizes; None to take what the compiler counts.
      limit: name under which fewer rows a call can be asked for; "" if they cannot.
      advice: what a user can change if it does not fit.
    """

    name: str
    calls: int
    programs: Callable[[], Sequence[Program]]
    memory: Callable[[], StepMemory]
    run: Callable[[Any, Callable[[], None]], Any]
    rows: int = 1
    flops: float | None = None
    limit: str = ""
    advice: str = ""


class Sampler(abc.ABC):
    """Opened weights of one family; no transformer is loaded before a step runs."""

    takes: ClassVar[frozenset[str]] = frozenset()  # optional fields of Request that the family knows
    lowers_anywhere: ClassVar[bool] = False  # its programs are lowered of shapes alone, for devices that are not here
    picture_size: int | None = None  # side in pixels of the square pictures that it reads; None for any size

    def check_fields(self, request: Request) -> None:
        """Raises UserError if these weights cannot make what a request asks for, whatever its prompts are."""
        unknown = request.asked() - self.takes - {"prompts", "seeds", "copies"}
        if unknown:
            raise UserError(f"these weights do not take {', '.join(sorted(unknown))}; leave it out")
        self.fps(request)

    def check_prompts(self, request: Request) -> list[str]:
        """Warnings about prompts. Raises UserError for one that these weights cannot take."""
        return []

    @abc.abstractmethod
    def fps(self, request: Request) -> float:
        """Frames a second of the result. Raises UserError for what the weights cannot give."""

    def read_start(self, path: Path) -> tuple[Start, str]:
        """Key frames that `Features.save` wrote, and their prompt.

        Raises:
          UserError: the file cannot be read, or these weights cannot go on from it.
        """
        raise UserError(f"{path}: these weights cannot go on from key frames")

    def start_fps(self, fps: float | None, given: float | None) -> float:
        """Rate at which to read a video whose frame rate is raised to `fps`, by default the highest there is.

        Args:
          given: the rate that the user asks for; None chooses one.

        Raises:
          UserError: `fps` cannot be reached from there.
        """
        raise UserError("these weights cannot raise the frame rate of a video")

    def start_seconds(self, request: Request) -> float:
        """Seconds of a video that `generate` starts from. Raises UserError if these weights start from none."""
        raise UserError("these weights do not start from a video; leave --from-video out")

    @abc.abstractmethod
    def steps(self, request: Request, rows: Mapping[str, int] | None = None) -> list[Step]:
        """The chain; the first step gets None, the last returns Clips.

        Args:
          rows: limit -> most batch rows a call, for steps that have a limit.
        """


class Opening(Schema):
    """How weights are opened.

    Attributes:
      dtype: in which matrices are kept and multiplied; None for float32 on a CPU, else bfloat16.
      one_stage_at_a_time: let go of one part's weights before the next is loaded.
      int8: what is kept as int8.
      growing_cache: a program for every number of frames, which reads no frames that do not exist yet.
    """

    dtype: Literal["float32", "bfloat16"] | None = None
    one_stage_at_a_time: bool = False
    int8: tuple[Literal["weights", "cache"], ...] = ()
    growing_cache: bool = False


DEFAULT_OPENING = Opening()


class Encoder(abc.ABC):
    """Turns clips into what a family trains on."""

    fingerprint: str

    @abc.abstractmethod
    def begin(self, out: Path, captions: Iterable[str], *, sizes: Sequence[int]) -> None:
        """Checks before a clip is read that all will be well in the end.

        Args:
          out: folder of the cache.
          captions: as far as they are known.
          sizes: sides of the frames.
        Raises:
          UserError: names what will not.
        """

    @abc.abstractmethod
    def encode(self, frames: UInt8[np.ndarray, "T H W 3"]) -> np.ndarray:
        """Features of frames."""

    @abc.abstractmethod
    def finish(self, cache: Any) -> None:
        """Adds to a finished cache what training reads beside the clips."""


class Benchmark(NamedTuple):
    """Something whose speed `cogvideo bench` measures.

    Attributes:
      help: one line for the command line.
      add_arguments: adds the options that only it has.
      settings: options -> keyword arguments of every measurement.
      measure: options; `machine`, `trace` and one of the settings -> a row of the report (`bench.report.Measured`).
    """

    help: str
    add_arguments: Callable[[Any], None]
    settings: Callable[[Any], list[dict[str, Any]]]
    measure: Callable[..., Any]


class Command(NamedTuple):
    """What a family does in a command of its own making: `cogvideo convert` or `cogvideo assemble`.

    Attributes:
      add_arguments: adds its options.
      run: options -> what to print.
    """

    add_arguments: Callable[[Any], None]
    run: Callable[[Any], list[str]]


@dataclasses.dataclass(frozen=True)
class Family:
    """A family of models; `models/registry.py` names all of them.

    Attributes:
      name: as in `pipeline.json` and in training configs.
      open: folder of weights, how -> sampler.
      demo: folder of the weights that come with the package, if any.
      random: size, how -> sampler with random weights, for benchmarks.
      sizes: that `random` knows.
      tasks: imports and returns what `cogvideo train` trains, by name; see `training.task`.
      encoder: tokenizer weights, text model or None, its size, whether it may replace another -> what `cogvideo
        tokenize` encodes with.
      benchmarks: name -> what `cogvideo bench` measures.
      convert: foreign checkpoints <-> ours.
      assemble: trained parts -> a folder of weights.
      check: folder of weights -> a sentence for each thing in it that is missing, damaged or does not fit.
    """

    name: str
    open: Callable[[Path, Opening], Sampler]
    demo: Path | None = None
    random: Callable[[str, Opening], Sampler] | None = None
    sizes: tuple[str, ...] = ()
    tasks: Callable[[], Mapping[str, Any]] = dict
    encoder: Callable[..., Encoder] | None = None
    benchmarks: Mapping[str, Benchmark] = dataclasses.field(default_factory=dict)
    convert: Command | None = None
    assemble: Command | None = None
    check: Callable[[Path], Iterable[str]] | None = None
