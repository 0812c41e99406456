"""What making a video will take of memory, found by compiling its programs before a transformer is loaded.

The programs are those that the run calls later: XLA keeps them, nothing is compiled twice.
"""

from collections.abc import Iterator
from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cogvideo_jax.models.cogvideo.config import Compat
from cogvideo_jax.models.cogvideo.pipeline import TextToVideo
from cogvideo_jax.models.cogvideo.sampling.decode import lower_slots
from cogvideo_jax.models.cogvideo.superres.sample import direct_program
from cogvideo_jax.models.cogvideo.weights import SUPERRES, TOKENIZER
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime.memory import Phase, compile_all, fits, working_bytes
from cogvideo_jax.runtime.mesh import round_up

# Of the host: small programs that are compiled on the way, and the video encoder; measured on the demo's weights, CPU.
OVERHEAD = 250 * 2**20
INTERPOLATION = "interpolation"
LOADED_COPIES = 2  # of an array on its way to the device: pages of the file, and the array made of them


class Request(NamedTuple):
    """What is to be made, as far as memory depends on it; attributes as those of `TextToVideo`'s calls.

    Attributes:
      prompts: videos made together.
      start: frames that are given; 0 for none. With some, stage 1 is not needed.
      rounds: of interpolation.
      key_frames: stage 1 is wanted.
    """

    prompts: int
    rounds: int
    start: int = 0
    key_frames: bool = True
    first_image: bool = False
    guidance: float | None = None
    superres: bool = True
    compat: Compat = Compat.EXACT


class _Step(NamedTuple):
    """A phase whose programs are not compiled yet."""

    name: str
    part: str
    programs: list[jax.stages.Lowered]
    host: int = 0
    advice: str = ""


def plan_generation(video: TextToVideo, request: Request) -> list[Phase]:
    """One phase for every part of the chain, in the order of the work.

    Where the sampling_config leaves it open, so few windows go through stage 2 together that they fit.
    """
    while True:
        phases = _plan(video, request)
        windows = _windows(video, request)
        crowded = [phase for phase in phases if phase.name == INTERPOLATION and not fits(phase)]
        if not crowded or video.sampling_config.windows_per_call is not None or windows <= round_up(1):
            return phases
        video.windows_per_call = windows // 2


def _plan(video: TextToVideo, request: Request) -> list[Phase]:
    steps: list[_Step] = []
    compiled = iter(compile_all(_programs(video, request, steps)))
    weights = video.weights
    phases, loaded = [], set()
    for step in steps:
        own = weights.bytes(step.part)
        working = max(working_bytes(next(compiled), own) for _ in step.programs)
        loaded = loaded | {step.part} if weights.keep else {step.part}
        loading = LOADED_COPIES * weights.largest_leaf(step.part)
        shared = working if jax.default_backend() == "cpu" else 0  # taken only when all is loaded
        host = step.host + max(0, loading - shared) + OVERHEAD
        phases.append(Phase(step.name, weights.bytes(*loaded), working, host, step.advice))
    return phases


def _programs(video: TextToVideo, request: Request, steps: list[_Step]) -> Iterator[jax.stages.Lowered]:
    """Of all steps, which are added to `steps`: while one is compiled, the next is traced."""
    for step in _steps(video, request):
        steps.append(step)
        yield from step.programs


def _steps(video: TextToVideo, request: Request) -> Iterator[_Step]:
    sampling_config, models = video.sampling_config, video.weights.models
    prompts, compat = request.prompts, request.compat
    smaller = _advice(video, "--batch 1" if prompts > 1 else "")
    frames = request.start
    if not frames and not request.first_image:
        settings = video.settings("base", None, compat)
        yield _Step("first frame", "base", _slots(video, "base", prompts, 0, settings), advice=smaller)
    if request.key_frames:
        settings = video.settings("stage1", request.guidance, compat)
        yield _Step("key frames", "stage1", _slots(video, "stage1", prompts, 1, settings), advice=smaller)
        frames = models["stage1"].config.layout.frames
    frames = max(frames, 1)
    if request.rounds:
        settings = video.settings("stage2", None, compat)
        programs = _slots(video, "stage2", _windows(video, request), 3, settings)
        advice = _advice(video, f"lower windows_per_call in {video.weights.folder}/pipeline.json")
        yield _Step(INTERPOLATION, "stage2", programs, advice=advice)
        frames = (frames - 1) * 2**request.rounds + 1
    if request.superres and video.has_superres:
        rows = round_up(min(sampling_config.superres_per_call, prompts * frames))
        advice = _advice(video, f"--no-superres, lower superres_per_call in {video.weights.folder}/pipeline.json")
        yield _Step("super-resolution", SUPERRES, [_superres_program(video, rows)], advice=advice)
    yield _pixels(video, prompts * frames, request.superres)


def _windows(video: TextToVideo, request: Request) -> int:
    """That go through stage 2 together."""
    frames = request.start or video.weights.models["stage1"].config.layout.frames
    return video.windows(request.prompts, frames, request.rounds)


def _slots(video: TextToVideo, part: str, rows: int, given: int, settings) -> list[jax.stages.Lowered]:
    """The programs that fill the slots of a layout behind `given` frames."""
    model, params = video.weights.models[part], video.weights.abstract(part)
    layout = model.config.layout
    text = (1 if settings.guidance is None else 2) * rows, layout.text_length
    arguments = _ids(*text), _mask(*text), _ids(rows, given, layout.frame_tokens), _keys(rows)
    return lower_slots(params, *arguments, _ids(model.config.image_codes), model=model, settings=settings)


def _superres_program(video: TextToVideo, rows: int) -> jax.stages.Lowered:
    model, params = video.weights.models[SUPERRES], video.weights.abstract(SUPERRES)
    config = model.config
    text = rows, config.text_length
    labels = _ids(config.image_codes)
    arguments = _ids(*text), _mask(*text), _ids(rows, config.coarse.grid**2), _keys(rows)
    return direct_program.lower(params, labels, *arguments, model=model, settings=video.direct_settings())


def _pixels(video: TextToVideo, frames: int, superres: bool) -> _Step:
    """Decoding; the host holds all frames twice while they are joined, and those of one call as numbers."""
    models, rows = video.weights.models, round_up(min(video.sampling_config.decoded_per_call, frames))
    enlarged = superres and video.has_superres
    tokens = models[SUPERRES].config.fine_tokens if enlarged else models["base"].config.layout.frame_tokens
    program = video.tokenizer.lower_decode(rows, tokens)
    pixels = int(np.prod(program.out_info.shape[1:]))
    host = 2 * frames * pixels + rows * pixels * 2 * np.dtype(np.float32).itemsize
    advice = f"lower decoded_per_call in {video.weights.folder}/pipeline.json"
    return _Step("pixels", TOKENIZER, [program], host, advice)


def _advice(video: TextToVideo, first: str) -> str:
    """What a user can change, of what is not yet changed."""
    ways = [first] if first else []
    if video.weights.keep:
        ways.append("--one-stage-at-a-time")
    if video.weights.dtype == jnp.float32:
        ways.append("--dtype bfloat16")
    return "use " + " or ".join(ways) if ways else "use a machine with more memory"


def _ids(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _mask(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.bool_)


def _keys(rows: int) -> PyTree:
    return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))
