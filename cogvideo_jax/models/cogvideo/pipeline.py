"""The paper's figure as one class: prompt -> text ids -> key frames -> interpolation -> super-resolution -> pixels.

video = TextToVideo.load()                                  # the demo's weights, or a folder
frames = video(["a red ball"], jax.random.key(0))           # uint8 [1, 33, 192, 192, 3]
"""

import functools
from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import Any

import numpy as np

import cogvideo_jax
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.config import Compat
from cogvideo_jax.models.cogvideo.sampling.decode import DecodeSettings, default_parallel_frames
from cogvideo_jax.models.cogvideo.sampling.interpolate import interpolate_once
from cogvideo_jax.models.cogvideo.sampling.keyframes import first_frame, key_frames
from cogvideo_jax.models.cogvideo.sampling_config import SamplingConfig
from cogvideo_jax.models.cogvideo.superres.sample import DirectSettings, superres_direct
from cogvideo_jax.models.cogvideo.text import GUIDANCE_TEXT, TextTokenizer, clip_text_ids, left_pad_text
from cogvideo_jax.models.cogvideo.vq.tokenizer import VQTokenizer
from cogvideo_jax.models.cogvideo.weights import SUPERRES, WeightsFolder
from cogvideo_jax.notation import Array, Bool, Int, Key, UInt8
from cogvideo_jax.runtime.mesh import round_up
from cogvideo_jax.runtime.progress import progress_bar
from cogvideo_jax.runtime.rng import fold, row_keys, stage_keys

DEMO_WEIGHTS = Path(cogvideo_jax.__file__).parent / "demo_weights"
AT_ONCE = dict(warmup=1, block=(1, 0))  # all fine tokens in one pass, as the released pipeline does
Bar = Any  # a progress bar of tqdm
Texts = tuple[Int[np.ndarray, "B S"], Bool[np.ndarray, "B S"]]  # left-padded ids and their mask


class TextToVideo:
    """Weights that can be called with prompts and a key; `has_superres` if super-resolution is among them."""

    def __init__(self, weights: WeightsFolder, *, int8_cache: bool = False, growing_cache: bool = False):
        self.weights, self.has_superres = weights, SUPERRES in weights.files
        self._caches = dict(int8_cache=int8_cache, growing_cache=growing_cache)
        self.sampling_config: SamplingConfig = weights.sampling_config
        self.windows_per_call = self.sampling_config.windows_per_call

    @classmethod
    def load(
        cls,
        folder: str | Path = DEMO_WEIGHTS,
        *,
        dtype: Any = None,
        keep: bool = True,
        int8: Collection[str] = (),
        growing_cache: bool = False,
    ) -> "TextToVideo":
        """Opens a folder of weights, by default the demo's.

        Args:
          dtype, keep: as in `WeightsFolder`.
          int8: what is kept as int8: "weights" (the large matrices of all transformers), "cache" (keys and values).
          growing_cache: a program for every number of frames, which reads no other frames; see `DecodeSettings`.

        Raises:
          UserError: one sentence, if something is missing, damaged or does not fit.
        """
        weights = WeightsFolder(folder, dtype=dtype, keep=keep, int8="weights" in int8)
        return cls(weights, int8_cache="cache" in int8, growing_cache=growing_cache)

    @property
    def tokenizer(self) -> VQTokenizer:
        """The image tokenizer."""
        return self.weights.tokenizer

    @property
    def text(self) -> TextTokenizer:
        """The text tokenizer."""
        return self.weights.text

    # What a user calls --------------------------------------------------------------------------------

    def __call__(
        self,
        prompts: Sequence[str],
        rng: Key[Array, ""] | Key[Array, "B"],
        *,
        fps: float | None = None,
        seconds: float | None = None,
        guidance: float | None = None,
        first_image: UInt8[np.ndarray, "H W 3"] | None = None,
        superres: bool = True,
        compat: Compat = Compat.EXACT,
        progress: bool = False,
    ) -> UInt8[np.ndarray, "B T H W 3"]:
        """Videos of the prompts.

        Args:
          prompts: one sentence a video.
          rng: one key, split into one a prompt; or one key a prompt.
          fps: frames a second of the result; by default all that the weights can give.
          seconds: length; by default the shortest that stage 1 was trained for.
          guidance: scale in stage 1 instead of the sampling_config's; 1 or less turns it off.
          first_image: the first frame of every video, pixels x pixels.
          superres: super-resolution, where the weights have it.
          compat: whose arithmetic; the release also stretches every frame from black to white.
          progress: show one bar on a terminal.

        Raises:
          UserError: a prompt that is empty or too long, or a rate or length that the weights cannot give.
        """
        _, rounds = self.schedule(fps, seconds)
        rngs = row_keys(rng, len(prompts))
        with self._bar(len(prompts), rounds, superres=superres, keyframes=True, shown=progress) as bar:
            frames = self.key_frames(
                prompts, rngs, seconds=seconds, guidance=guidance, first_image=first_image, compat=compat, bar=bar
            )
            frames = self.rounds(frames, prompts, rngs, rounds, compat=compat, bar=bar)
            return self.pixels(frames, prompts, rngs, superres=superres, compat=compat, bar=bar)

    def interpolate(
        self,
        frames: UInt8[np.ndarray, "B T H W 3"] | Int[np.ndarray, "B T N"],
        prompts: Sequence[str],
        rng: Key[Array, ""] | Key[Array, "B"],
        *,
        fps: float,
        to: float | None = None,
        superres: bool = True,
        compat: Compat = Compat.EXACT,
        progress: bool = False,
    ) -> UInt8[np.ndarray, "B T2 H W 3"]:
        """Stage 2 alone: doubles the frame rate of pictures, or of ids, until it is `to`.

        Args:
          frames: an odd number of at least 3 frames; pictures are pixels x pixels.
          fps: their rate.
          to: the rate wanted; by default the highest that the weights give.

        Raises:
          UserError: a rate that cannot be reached, or frames of another number or size.
        """
        rounds = self.sampling_config.pass_rates(fps, to)
        ids = frames if frames.ndim == 3 else self._encode(frames)
        if ids.shape[1] < 3 or ids.shape[1] % 2 == 0:
            raise UserError(f"interpolation needs an odd number of at least 3 frames, got {ids.shape[1]}")
        rngs = row_keys(rng, len(prompts))
        with self._bar(
            len(prompts), rounds, superres=superres, keyframes=False, shown=progress, start=ids.shape[1]
        ) as bar:
            ids = self.rounds(ids, prompts, rngs, rounds, compat=compat, bar=bar)
            return self.pixels(ids, prompts, rngs, superres=superres, compat=compat, bar=bar)

    def image(
        self,
        prompts: Sequence[str],
        rng: Key[Array, ""] | Key[Array, "B"],
        *,
        superres: bool = True,
        compat: Compat = Compat.EXACT,
        progress: bool = False,
    ) -> UInt8[np.ndarray, "B H W 3"]:
        """Pictures of the prompts: what CogView2, the base, makes of them alone."""
        rngs = row_keys(rng, len(prompts))
        with self._bar(len(prompts), [], superres=superres, keyframes=False, shown=progress, start=1) as bar:
            ids = self._first(self._texts("base", prompts, self.text.encode), rngs, compat)
            bar.update()
            return self.pixels(ids, prompts, rngs, superres=superres, compat=compat, bar=bar)[:, 0]

    def key_frames(
        self,
        prompts: Sequence[str],
        rngs: Key[Array, "B"],
        *,
        seconds: float | None = None,
        guidance: float | None = None,
        first_image: UInt8[np.ndarray, "H W 3"] | None = None,
        compat: Compat = Compat.EXACT,
        bar: Bar = None,
    ) -> Int[np.ndarray, "B T N"]:
        """Stage 1 alone: ids of the key frames; arguments as those of `__call__`."""
        bar = _silent() if bar is None else bar
        key_rate, _ = self.schedule(None, seconds)
        guided = self._guidance(guidance) is not None
        suffix = self.sampling_config.guided_suffix if guided else ""
        texts = self._clip_texts("stage1", prompts, key_rate, suffix)
        if guided:
            against = self._clip_texts("stage1", [GUIDANCE_TEXT] * len(prompts), key_rate)
            texts = tuple(np.concatenate(pair) for pair in zip(texts, against))
        if first_image is None:
            suffix = self.sampling_config.first_frame_suffix
            first = self._first(self._texts("base", prompts, lambda p: self.text.encode(p + suffix)), rngs, compat)
        else:
            first = np.repeat(self._encode(first_image[None, None]), len(prompts), axis=0)
        bar.update()
        bar.set_description("key frames")
        stage, settings = self.weights.stage("stage1"), self.settings("stage1", guidance, compat)
        arguments = stage.params, *texts, first, stage_keys(rngs, 1), self.weights.labels
        return key_frames(*arguments, model=stage.model, settings=settings, on_frame=bar.update)

    def pixels(
        self,
        frames: Int[np.ndarray, "B T N"],
        prompts: Sequence[str],
        rngs: Key[Array, "B"],
        *,
        superres: bool = True,
        compat: Compat = Compat.EXACT,
        bar: Bar = None,
    ) -> UInt8[np.ndarray, "B T H W 3"]:
        """Ids -> frames, enlarged first where the weights can."""
        bar = _silent() if bar is None else bar
        if superres and self.has_superres:
            bar.set_description("super-resolution")
            frames = self.enlarge(frames, prompts, rngs, bar=bar)
        batch, length, tokens = frames.shape
        flat = frames.reshape(batch * length, tokens)
        self.weights.release()
        bar.set_description("pixels")
        size = round_up(min(self.sampling_config.decoded_per_call, len(flat)))
        parts = []
        for start in range(0, len(flat), size):
            index = np.minimum(np.arange(start, start + size), len(flat) - 1)  # the last call is filled up
            parts.append(self._decode(flat[index], compat)[: len(flat) - start])
            bar.update()
        pictures = np.concatenate(parts)
        return pictures.reshape(batch, length, *pictures.shape[1:])

    def check(self, prompt: str) -> None:
        """Raises UserError if a prompt cannot be used."""
        key_rate, _ = self.schedule(None, None)
        self._texts("base", [prompt], lambda p: self.text.encode(p + self.sampling_config.first_frame_suffix))
        self._clip_texts("stage1", [prompt], key_rate, self.sampling_config.guided_suffix)

    def out_of_vocabulary(self, prompt: str) -> list[str]:
        """Words and signs of a prompt that the weights were never trained on."""
        if not self.sampling_config.whole_words:
            return self.text.spelled_characters(prompt)
        return self.text.out_of_vocabulary(prompt)

    def rate(self, fps: float | None, seconds: float | None) -> float:
        """Frames a second of a call with these arguments."""
        key_rate, rounds = self.schedule(fps, seconds)
        return rounds[-1] if rounds else key_rate

    # What is to be done -------------------------------------------------------------------------------

    def schedule(self, fps: float | None, seconds: float | None) -> tuple[float, list[float]]:
        """Key frame rate, and the rate after each round of interpolation; arguments as in `__call__`."""
        intervals = self.weights.models["stage1"].config.layout.frames - 1
        lengths = {intervals / rate: rate for rate in self.sampling_config.keyframe_fps}
        seconds = min(lengths) if seconds is None else seconds
        if seconds not in lengths:
            possible = ", ".join(f"{length:g}" for length in sorted(lengths))
            raise UserError(f"these weights make videos of {possible} seconds, not {seconds:g}")
        key_rate = lengths[seconds]
        return key_rate, self.sampling_config.pass_rates(key_rate, fps)

    def windows(self, videos: int, frames: int, rounds: int) -> int:
        """Windows that go through stage 2 together, in all rounds that begin with so many frames."""
        last = videos * max(1, (frames - 1) * 2 ** (rounds - 1) // 2) if rounds else 1
        return round_up(min(last, self.windows_per_call or last))

    def _bar(self, prompts: int, rounds: list[float], *, superres: bool, keyframes: bool, shown: bool, start: int = 0):
        """A progress bar over all calls: frames of stage 1, windows of stage 2, pictures enlarged and decoded."""
        sampling_config = self.sampling_config
        layout = self.weights.models["stage1"].config.layout
        frames = layout.frames if keyframes else start
        work = layout.frames if keyframes else int(start == 1)
        windows = self.windows(prompts, frames, len(rounds))
        for _ in rounds:
            work += 2 * -(-prompts * (frames - 1) // 2 // windows)
            frames = 2 * frames - 1
        if superres and self.has_superres:
            work += -(-prompts * frames // round_up(sampling_config.superres_per_call))
        work += -(-prompts * frames // round_up(sampling_config.decoded_per_call))
        return progress_bar(total=work, desc="first frame" if keyframes else "", disable=not shown)

    def _guidance(self, guidance: float | None) -> float | None:
        scale = self.sampling_config.guidance if guidance is None else guidance
        return None if scale is None or scale <= 1.0 else scale

    # Texts --------------------------------------------------------------------------------------------

    def _clip_texts(self, stage: str, prompts: Sequence[str], fps: float, suffix: str = "") -> Texts:
        return self._texts(stage, prompts, lambda prompt: clip_text_ids(prompt + suffix, fps=fps, text=self.text))

    def _texts(self, part: str, prompts: Sequence[str], make: Callable[[str], list[int]]) -> Texts:
        """Padded ids of the text that `make` makes of every prompt."""
        config = self.weights.models[part].config
        length = config.text_length if part == SUPERRES else config.layout.text_length
        rows = []
        for prompt in prompts:
            if not prompt.strip():
                raise UserError("the prompt is empty; describe the video in a sentence")
            ids = make(prompt)
            if len(ids) > length:
                raise UserError(
                    f"the prompt takes {len(ids)} of the {length} text tokens that these weights read; "
                    f"shorten {prompt[:40]!r}"
                )
            rows.append(left_pad_text(ids, length=length, pad_id=self.text.pad_id))
        return tuple(np.stack(column) for column in zip(*rows))

    # Steps --------------------------------------------------------------------------------------------

    def _first(self, texts: Texts, rngs: Key[Array, "B"], compat: Compat) -> Int[np.ndarray, "B 1 N"]:
        stage, keys, settings = self.weights.stage("base"), stage_keys(rngs, 0), self.settings("base", None, compat)
        return first_frame(stage.params, *texts, keys, self.weights.labels, model=stage.model, settings=settings)

    def rounds(
        self,
        frames: Int[np.ndarray, "B T N"],
        prompts: Sequence[str],
        rngs: Key[Array, "B"],
        rates: Sequence[float],
        *,
        compat: Compat = Compat.EXACT,
        bar: Bar = None,
    ) -> Int[np.ndarray, "B T2 N"]:
        """Stage 2 alone: each of `rates` is twice the one before and doubles the frames but one."""
        bar, windows = _silent() if bar is None else bar, self.windows(len(frames), frames.shape[1], len(rates))
        for rate in rates:
            bar.set_description(f"{2 * frames.shape[1] - 1} frames")
            stage = self.weights.stage("stage2")
            frames = interpolate_once(
                stage.params,
                *self._clip_texts("stage2", prompts, rate),
                frames,
                stage_keys(rngs, 1 + frames.shape[1]),
                self.weights.labels,
                model=stage.model,
                settings=self.settings("stage2", None, compat),
                chunk=windows,
                on_frame=bar.update,
            )
        return frames

    def enlarge(
        self, frames: Int[np.ndarray, "B T N"], prompts: Sequence[str], rngs: Key[Array, "B"], *, bar: Bar = None
    ) -> Int[np.ndarray, "B T N2"]:
        """Super-resolution alone: fine ids of all frames."""
        sampling_config, stage, bar = (
            self.sampling_config,
            self.weights.stage(SUPERRES),
            _silent() if bar is None else bar,
        )
        batch, length, tokens = frames.shape
        clips, numbers = np.divmod(np.arange(batch * length), length)
        text, mask = (x[clips] for x in self._texts(SUPERRES, prompts, self.text.encode))
        fine = superres_direct(
            stage.params,
            text,
            mask,
            np.asarray(frames).reshape(batch * length, tokens),
            fold(stage_keys(rngs, 1000), clips, numbers),
            self.weights.labels,
            model=stage.model,
            settings=self.direct_settings(),
            rows_per_call=round_up(sampling_config.superres_per_call),
            on_part=bar.update,
        )
        return fine.reshape(batch, length, -1)

    def settings(self, stage: str, guidance: float | None, compat: Compat) -> DecodeSettings:
        """How a stage writes; `guidance` as in `__call__`, for stage 1 only."""
        sampling_config, last = self.sampling_config, None
        strategies = {
            "base": sampling_config.first_frame,
            "stage1": sampling_config.keyframes,
            "stage2": sampling_config.interpolation,
        }
        scale = self._guidance(guidance) if stage == "stage1" else None
        weight = sampling_config.text_log_weight if scale is None else 0.0
        if stage == "base" and compat == Compat.RELEASE:
            last = sampling_config.keyframes
        parallel_frames = default_parallel_frames(self.weights.models[stage].config)
        settings = dict(parallel_frames=parallel_frames, compat=compat, last_token=last, **self._caches)
        return DecodeSettings(strategies[stage], self._clusters, scale, weight, **settings)

    def direct_settings(self) -> DirectSettings:
        """How super-resolution draws."""
        return DirectSettings(self.sampling_config.superres, self._clusters, **AT_ONCE)

    @functools.cached_property
    def _clusters(self) -> int:
        return int(self.weights.labels.max()) + 1

    def _encode(self, frames: UInt8[np.ndarray, "B T H W 3"]) -> Int[np.ndarray, "B T N"]:
        batch, length = frames.shape[:2]
        size = self.sampling_config.pixels
        if frames.shape[2:] != (size, size, 3):
            raise UserError(f"these weights read pictures of {size} x {size} pixels, got {frames.shape[2:]}")
        ids = self.tokenizer.encode(frames.reshape(batch * length, size, size, 3))
        return np.asarray(ids).reshape(batch, length, -1)

    def _decode(self, ids: Int[Array, "B N"], compat: Compat) -> UInt8[np.ndarray, "B H W 3"]:
        if compat == Compat.EXACT:
            return self.tokenizer.decode(ids)
        pixels = np.asarray(self.tokenizer.decode_float(ids))
        low, high = (reduce(pixels, axis=(1, 2, 3), keepdims=True) for reduce in (np.min, np.max))
        return np.rint(255 * (pixels - low) / np.maximum(high - low, 1e-5)).astype(np.uint8)


def _silent() -> Bar:
    return progress_bar(disable=True)
