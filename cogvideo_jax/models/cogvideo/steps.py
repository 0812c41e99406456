"""The links of CogVideo's chain, each with its programs, its memory and its run."""

import functools
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cogvideo_jax.interface import Clips, Program, Request, Step, StepMemory
from cogvideo_jax.models.cogvideo.config import Compat
from cogvideo_jax.models.cogvideo.key_frames_file import write_key_frames
from cogvideo_jax.models.cogvideo.sampling.decode import DecodeSettings, lower_slots, write_slots
from cogvideo_jax.models.cogvideo.sampling.interpolate import interpolate_once
from cogvideo_jax.models.cogvideo.superres.sample import (
    direct_program,
    refinement_rounds,
    superres_direct,
    superres_iterative,
)
from cogvideo_jax.models.cogvideo.weights import ITERSR, SUPERRES, TOKENIZER
from cogvideo_jax.notation import Int, PyTree
from cogvideo_jax.runtime.batching import calls_of, in_chunks
from cogvideo_jax.runtime.mesh import round_up
from cogvideo_jax.runtime.rng import fold, stage_keys

if TYPE_CHECKING:
    from cogvideo_jax.models.cogvideo.pipeline import CogVideoSampler

INTERPOLATION = "interpolation"  # limit of the windows that go through stage 2 together
LOADED_COPIES = 2  # of an array on its way to the device: pages of the file, and the array made of them
# Numbers folded into a video's key: one stream of randomness for each use of it.
BASE_KEYS, STAGE1_KEYS, SUPERRES_KEYS, ITERSR_KEYS = 0, 1, 1000, 1001
Report = Callable[[], None]
Texts = tuple[np.ndarray, np.ndarray]  # ids and mask


class Tokens(NamedTuple):
    """Result of every step but the last.

    Attributes:
      coarse: ids of the frames that the stages wrote.
      fine: ids after super-resolution.
    """

    coarse: Int[np.ndarray, "B T N"]
    fine: Int[np.ndarray, "B T M"] | None = None


class WrittenKeyFrames(NamedTuple):
    """Key frames of one video as ids, which `cogvideo interpolate` goes on from.

    Attributes:
      tokenizer: fingerprint of the one whose ids they are.
    """

    ids: Int[np.ndarray, "T N"]
    fps: float
    tokenizer: str

    def save(self, path: Path, *, prompt: str, replace: bool = False) -> None:
        """Writes a `.keyframes` file."""
        write_key_frames(path, self.ids, prompt=prompt, fps=self.fps, tokenizer=self.tokenizer, replace=replace)


class Chain:
    """Makes the links for one request.

    Args:
      rows: limit -> most batch rows a call.
    """

    def __init__(self, sampler: "CogVideoSampler", request: Request, rows: Mapping[str, int]):
        self.sampler, self.request = sampler, request
        self.weights, self.config = sampler.weights, sampler.sampling_config
        self.videos = len(request.prompts)
        self.parts: list[str] = []  # whose weights have been loaded when the next step runs
        self._lowered: dict[tuple[str, int], list[jax.stages.Lowered]] = {}
        self.rates = sampler.pass_rates(request)
        self.frames = self._frames_before_interpolation()
        self.windows = sampler.windows_per_call(self.videos, self.frames, len(self.rates), rows.get(INTERPOLATION))

    def _frames_before_interpolation(self) -> int:
        if self.request.start is not None:
            return len(self.request.start.frames)
        return 1 if self.request.output == "image" else self.weights.models["stage1"].config.layout.frames

    @functools.cached_property
    def keys(self) -> PyTree:
        """One random key a video."""
        return self.request.keys()

    # Links ----------------------------------------------------------------------------------------------

    def first_frame(self) -> Step:
        """One picture a video, by the base alone."""
        settings = self.sampler.settings("base", self.request)

        def run(_: Any, report: Report) -> Tokens:
            text = self.sampler.texts("base", self.request)
            return Tokens(self._write("base", settings, text, np.zeros((self.videos, 0, 0), np.int32), report))

        programs = functools.partial(self._slot_programs, "base", self.videos, 0, settings, chunks=1)
        calls = self._writes("base", 0, settings)
        return self._step("first frame", "base", run, programs, calls=calls, rows=self.videos, advice=self._fewer())

    def given_image(self) -> Step:
        """The first frame from a picture."""

        def run(_: Any, report: Report) -> Tokens:
            ids = self.sampler.encode(self.request.first_image[None])
            report()
            return Tokens(np.repeat(ids[None], self.videos, axis=0))

        return self._step("first frame", TOKENIZER, run, functools.partial(self._encode_programs, 1))

    def given_video(self) -> Step:
        """Ids of the frames to go on from."""
        frames = self.request.start.frames

        def run(_: Any, report: Report) -> Tokens:
            ids = frames if frames.ndim == 2 else self.sampler.encode(frames)
            report()
            return Tokens(np.repeat(np.asarray(ids, np.int32)[None], self.videos, axis=0))

        count = 0 if frames.ndim == 2 else len(frames)
        return self._step("given frames", TOKENIZER, run, functools.partial(self._encode_programs, count))

    def key_frames(self) -> Step:
        """Stage 1: the other key frames behind the first, one after another (paper section 3.1)."""
        settings = self.sampler.settings("stage1", self.request)
        fps = self.sampler.key_fps(self.request)

        def run(first: Tokens, report: Report) -> Tokens:
            text = self.sampler.texts("stage1", self.request, fps)
            return Tokens(self._write("stage1", settings, text, first.coarse, report))

        programs = functools.partial(self._slot_programs, "stage1", self.videos, 1, settings, chunks=1)
        calls = self._writes("stage1", 1, settings)
        return self._step("key frames", "stage1", run, programs, calls=calls, rows=self.videos, advice=self._fewer())

    def interpolation(self, fps: float) -> Step:
        """Stage 2: one pass, which doubles the frame rate to `fps`."""
        before, self.frames = self.frames, 2 * self.frames - 1
        settings = self.sampler.settings("stage2", self.request)
        chunks = calls_of(self.videos * (before - 1) // 2, self.windows)

        def run(tokens: Tokens, report: Report) -> Tokens:
            stage = self.weights.stage("stage2")
            ids = interpolate_once(
                stage.params,
                *self.sampler.texts("stage2", self.request, fps),
                tokens.coarse,
                stage_keys(self.keys, 1 + before),
                self.weights.labels,
                model=stage.model,
                settings=settings,
                chunk=self.windows,
                on_call=report,
            )
            return Tokens(ids)

        advice = self._advice(f"lower windows_per_call in {self.weights.folder}/pipeline.json")
        calls = chunks * self._writes("stage2", 3, settings)
        how = dict(calls=calls, rows=self.windows, limit=INTERPOLATION, advice=advice)
        programs = functools.partial(self._slot_programs, "stage2", self.windows, 3, settings, chunks=chunks)
        return self._step(f"{self.frames} frames", "stage2", run, programs, **how)

    def superres(self) -> Step:
        """Coarse ids to fine ids, a frame at a time (CogView2, section 3.3)."""
        settings = self.sampler.superres_settings()

        def draw(tokens: Tokens, text: Texts, keys: PyTree, **how: Any) -> Int[np.ndarray, "n M"]:
            stage, coarse = self.weights.stage(SUPERRES), np.asarray(tokens.coarse).reshape(len(keys), -1)
            arguments = stage.params, *text, coarse, keys, self.weights.labels
            return superres_direct(*arguments, model=stage.model, settings=settings, **how)

        def programs(rows: int) -> jax.stages.Lowered:
            model, params = self.weights.models[SUPERRES], self.weights.abstract(SUPERRES)
            coarse = _ids(rows, model.config.coarse.grid**2)
            arguments = *_texts(rows, model.config.text_length), coarse, _keys(rows)
            labels = _ids(model.config.image_codes)
            return direct_program.lower(params, labels, *arguments, model=model, settings=settings)

        return self._superres("super-resolution", SUPERRES, draw, programs, SUPERRES_KEYS)

    def iterative_superres(self) -> Step:
        """Fine ids drawn again in rounds (CogView2's iterative super-resolution)."""
        settings = self.config.iterative_superres

        def draw(tokens: Tokens, text: Texts, keys: PyTree, **how: Any) -> Int[np.ndarray, "n M"]:
            stage, fine = self.weights.stage(ITERSR), np.asarray(tokens.fine).reshape(len(keys), -1)
            arguments = stage.params, *text, fine, keys
            return superres_iterative(*arguments, model=stage.model, settings=settings, **how)

        def programs(rows: int) -> jax.stages.Lowered:
            model, params = self.weights.models[ITERSR], self.weights.abstract(ITERSR)
            fine = _ids(rows, model.config.fine_tokens)
            arguments = *_texts(rows, model.config.text_length), fine, _keys(rows)
            return refinement_rounds.lower(params, *arguments, model=model, settings=settings)

        return self._superres("refinement", ITERSR, draw, programs, ITERSR_KEYS)

    def _superres(self, name: str, part: str, draw: Callable, program: Callable, stream: int) -> Step:
        """All frames of all videos through a super-resolution model, each with a key and its video's text."""
        pictures = self.videos * self.frames
        rows = round_up(min(self.config.superres_per_call, pictures))

        def run(tokens: Tokens, report: Report) -> Tokens:
            clips, numbers = np.divmod(np.arange(pictures), self.frames)
            text, mask = (x[clips] for x in self.sampler.texts(part, self.request))
            keys = fold(stage_keys(self.keys, stream), clips, numbers)
            fine = draw(tokens, (text, mask), keys, rows_per_call=rows, on_call=report)
            return tokens._replace(fine=fine.reshape(self.videos, self.frames, -1))

        calls = calls_of(pictures, rows)
        programs = functools.partial(lambda: [Program(program(rows), calls)])
        advice = self._advice(f"--no-superres, lower superres_per_call in {self.weights.folder}/pipeline.json")
        return self._step(name, part, run, programs, calls=calls, rows=rows, advice=advice)

    def pixels(self) -> Step:
        """Ids to frames."""
        pictures = self.videos * self.frames
        rows = round_up(min(self.config.decoded_per_call, pictures))
        fps, keeps = self.sampler.fps(self.request), self.request.output == "key_frames"

        def run(tokens: Tokens, report: Report) -> Clips:
            ids = tokens.coarse if tokens.fine is None else tokens.fine
            self.weights.release()
            decode = functools.partial(self.sampler.decode, compat=Compat(self.request.compat))
            made = in_chunks(decode, (ids.reshape(pictures, -1),), rows=rows, on_call=report)
            frames = made.reshape(self.videos, self.frames, *made.shape[1:])
            fingerprint = self.sampler.tokenizer.fingerprint
            return Clips(
                frames, fps, [WrittenKeyFrames(ids, fps, fingerprint) for ids in tokens.coarse] if keeps else None
            )

        program = functools.cache(functools.partial(self._decode_program, rows))
        host = functools.partial(self._pixel_bytes, program, pictures, rows)
        advice = f"lower decoded_per_call in {self.weights.folder}/pipeline.json"
        calls = calls_of(pictures, rows)
        programs = functools.partial(lambda: [Program(program(), calls)])
        return self._step("pixels", TOKENIZER, run, programs, calls=calls, rows=rows, host=host, advice=advice)

    # What links share -----------------------------------------------------------------------------------

    def _step(self, name: str, part: str, run: Callable, programs: Callable, *, host=lambda: 0, **how: Any) -> Step:
        """A step that runs on the weights of one part."""
        keeps = self.weights.keep
        self.parts = [*dict.fromkeys([*self.parts, part])] if keeps else [part]
        resident = tuple(self.parts)

        def memory() -> StepMemory:
            weights, copies = self.weights, LOADED_COPIES
            own, all_parts = weights.bytes(part), weights.bytes(*resident)
            return StepMemory(own, all_parts, copies * weights.largest_leaf(part), host())

        return Step(name, **({"calls": 1} | how), programs=programs, memory=memory, run=run)

    def _write(self, part: str, settings: DecodeSettings, text, given, report: Report) -> Int[np.ndarray, "B T N"]:
        """All slots of a part's layout behind the given frames."""
        stage, number = self.weights.stage(part), BASE_KEYS if part == "base" else STAGE1_KEYS
        given = given.reshape(self.videos, given.shape[1], stage.model.config.layout.frame_tokens)
        arguments = stage.params, *text, given, stage_keys(self.keys, number), self.weights.labels
        return write_slots(*arguments, model=stage.model, settings=settings, on_call=report)

    def _writes(self, part: str, given: int, settings: DecodeSettings) -> int:
        """Calls that write the frames behind the given ones."""
        return (self.weights.models[part].config.layout.frames - given) // settings.parallel_frames

    def _slot_programs(self, part: str, rows: int, given: int, settings, *, chunks: int) -> list[Program]:
        """Programs that fill the slots of a layout behind `given` frames, for so many chunks of rows."""
        start, *writes = self._lowered_slots(part, rows, given, settings)
        each = chunks * self._writes(part, given, settings) // len(writes)
        return [Program(start, chunks), *(Program(write, each) for write in writes)]

    def _lowered_slots(self, part: str, rows: int, given: int, settings: DecodeSettings) -> list[jax.stages.Lowered]:
        """Lowered once: all interpolation passes share their programs."""
        if (part, rows) not in self._lowered:
            self._lowered[part, rows] = self._lower_slots(part, rows, given, settings)
        return self._lowered[part, rows]

    def _lower_slots(self, part: str, rows: int, given: int, settings: DecodeSettings) -> list[jax.stages.Lowered]:
        model, params = self.weights.models[part], self.weights.abstract(part)
        layout = model.config.layout
        text = (1 if settings.guidance is None else 2) * rows, layout.text_length
        arguments = _ids(*text), _mask(*text), _ids(rows, given, layout.frame_tokens), _keys(rows)
        return lower_slots(params, *arguments, _ids(model.config.image_codes), model=model, settings=settings)

    def _encode_programs(self, frames: int) -> list[Program]:
        if not frames:
            return []
        return [Program(self.sampler.tokenizer.lower_encode(frames, self.sampler.picture_size), 1)]

    def _decode_program(self, rows: int) -> jax.stages.Lowered:
        models = self.weights.models
        upscaled = self.request.superres and self.sampler.has_superres
        tokens = models[SUPERRES].config.fine_tokens if upscaled else models["base"].config.layout.frame_tokens
        return self.sampler.tokenizer.lower_decode(rows, tokens)

    def _pixel_bytes(self, program: Callable[[], jax.stages.Lowered], pictures: int, rows: int) -> int:
        """Host memory: all frames twice while they are joined, and those of one call as float32."""
        pixels = int(np.prod(program().out_info.shape[1:]))
        return 2 * pictures * pixels + rows * pixels * 2 * np.dtype(np.float32).itemsize

    def _fewer(self) -> str:
        return self._advice("--batch 1" if self.videos > 1 else "")

    def _advice(self, first: str) -> str:
        """What a user can still change."""
        ways = [first] if first else []
        if self.weights.keep:
            ways.append("--one-stage-at-a-time")
        if self.weights.dtype == jnp.float32:
            ways.append("--dtype bfloat16")
        return "use " + " or ".join(ways) if ways else "use a machine with more memory"


def _ids(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.int32)


def _mask(*shape: int) -> jax.ShapeDtypeStruct:
    return jax.ShapeDtypeStruct(shape, jnp.bool_)


def _texts(rows: int, length: int) -> tuple[jax.ShapeDtypeStruct, jax.ShapeDtypeStruct]:
    """Ids and mask of texts."""
    return _ids(rows, length), _mask(rows, length)


def _keys(rows: int) -> PyTree:
    return jax.eval_shape(lambda: jax.random.split(jax.random.key(0), rows))
