"""CogVideo as a sampler: a request becomes a chain of steps (the paper's figure 2 from left to right).

    prompt -> text ids -> first frame -> key frames -> interpolation 9, 17, 33 -> super-resolution -> pixels

A request may leave out ends of the chain: single pictures, key frames alone, or the interpolation of a video.
"""

import functools
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path

import numpy as np

from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import DEFAULT_OPENING, Opening, Request, Sampler, Start, Step
from cogvideo_jax.models.cogvideo import steps as links
from cogvideo_jax.models.cogvideo.config import Compat
from cogvideo_jax.models.cogvideo.key_frames_file import read_key_frames
from cogvideo_jax.models.cogvideo.sampling.decode import DecodeSettings, default_parallel_frames
from cogvideo_jax.models.cogvideo.sampling_config import SamplingConfig
from cogvideo_jax.models.cogvideo.superres.sample import AT_ONCE, DirectSettings
from cogvideo_jax.models.cogvideo.text import GUIDANCE_TEXT, TextTokenizer, clip_text_ids, left_pad_text
from cogvideo_jax.models.cogvideo.vq.tokenizer import VQTokenizer
from cogvideo_jax.models.cogvideo.weights import ITERSR, SUPERRES, WeightsFolder
from cogvideo_jax.notation import Bool, Int, UInt8
from cogvideo_jax.runtime.mesh import round_up

Texts = tuple[Int[np.ndarray, "B S"], Bool[np.ndarray, "B S"]]  # left-padded ids and their mask
VIDEO, KEY_FRAMES, IMAGE = "video", "key_frames", "image"  # outputs of a request


class CogVideoSampler(Sampler):
    """Opened weights of CogVideo; `has_superres` if super-resolution is among them."""

    takes = frozenset({"output", "fps", "seconds", "guidance", "first_image", "start", "superres", "compat"})

    def __init__(self, weights: WeightsFolder, opening: Opening = DEFAULT_OPENING):
        self.weights, self.opening = weights, opening
        self.has_superres = SUPERRES in weights.files

    @property
    def sampling_config(self) -> SamplingConfig:
        """How these weights want to be sampled."""
        return self.weights.sampling_config

    @property
    def tokenizer(self) -> VQTokenizer:
        """The image tokenizer."""
        return self.weights.tokenizer

    @property
    def text(self) -> TextTokenizer:
        """The text tokenizer."""
        return self.weights.text

    @property
    def picture_size(self) -> int:
        """Side in pixels of the pictures that are read: first images and start videos."""
        return self.sampling_config.pixels

    # The request ----------------------------------------------------------------------------------------

    def check_fields(self, request: Request) -> None:
        super().check_fields(request)
        self._refuse_ignored(request)
        self._check_pictures(request)

    def check_prompts(self, request: Request) -> list[str]:
        for stage in self._stages(request):
            for fps in self._text_rates(stage, request):
                self.texts(stage, request, fps)
        if self.has_superres and request.superres:
            self.texts(SUPERRES, request)
        unknown = [word for prompt in request.prompts for word in self.out_of_vocabulary(prompt)]
        return [f"these weights were never trained on {', '.join(unknown)}; expect nonsense"] if unknown else []

    def _stages(self, request: Request) -> list[str]:
        """Transformers that write tokens for a request."""
        stages = [] if request.start or request.first_image is not None else ["base"]
        if request.output != IMAGE and not request.start:
            stages.append("stage1")
        return stages + (["stage2"] if self.pass_rates(request) else [])

    def _refuse_ignored(self, request: Request) -> None:
        """Fields that would change nothing are refused, so that nobody waits for their effect."""
        given = request.asked()
        ignored = {
            "output=image": request.output == IMAGE and given & {"first_image", "fps", "seconds", "guidance", "start"},
            "output=key_frames": request.output == KEY_FRAMES and given & {"fps", "start"},
            "start": request.start is not None and given & {"first_image", "seconds", "guidance"},
        }
        for what, fields in ignored.items():
            if fields:
                raise UserError(f"{what} cannot be combined with {', '.join(sorted(fields))}; leave one of them out")

    def _check_pictures(self, request: Request) -> None:
        size = self.picture_size
        if request.first_image is not None and request.first_image.shape != (size, size, 3):
            shape = list(request.first_image.shape)
            raise UserError(f"these weights read pictures of {size} x {size} pixels, got an array of shape {shape}")
        if request.start is not None:
            shape = request.start.frames.shape
            if len(shape) == 4 and shape[1:] != (size, size, 3):
                raise UserError(f"these weights read frames of {size} x {size} pixels, got {list(shape[1:])}")
            if shape[0] < 3 or shape[0] % 2 == 0:
                raise UserError(f"interpolation needs an odd number of at least 3 frames, got {shape[0]}")

    def out_of_vocabulary(self, prompt: str) -> list[str]:
        """Words and signs of a prompt that the weights were never trained on."""
        if not self.sampling_config.whole_words:
            return self.text.spelled_characters(prompt)
        return self.text.out_of_vocabulary(prompt)

    # Frame rates ----------------------------------------------------------------------------------------

    def fps(self, request: Request) -> float:
        rates = self.pass_rates(request)
        return rates[-1] if rates else self.key_fps(request)

    def key_fps(self, request: Request) -> float:
        """Frames a second before interpolation."""
        if request.start is not None:
            return request.start.fps
        intervals = self.weights.models["stage1"].config.layout.frames - 1
        lengths = {intervals / rate: rate for rate in self.sampling_config.keyframe_fps}
        seconds = min(lengths) if request.seconds is None else request.seconds
        if seconds not in lengths:
            possible = ", ".join(f"{length:g}" for length in sorted(lengths))
            raise UserError(f"these weights make videos of {possible} seconds, not {seconds:g}")
        return lengths[seconds]

    def pass_rates(self, request: Request) -> list[float]:
        """Frames a second after each interpolation pass."""
        if request.output != VIDEO:
            return []
        return self.sampling_config.pass_rates(self.key_fps(request), request.fps)

    def _text_rates(self, stage: str, request: Request) -> list[float | None]:
        """Frame rates that a stage's texts name, one call after another; None for the base, whose texts name none."""
        match stage:
            case "stage1":
                return [self.key_fps(request)]
            case "stage2":
                return [*self.pass_rates(request)]
        return [None]

    # The chain ------------------------------------------------------------------------------------------

    def steps(self, request: Request, rows: Mapping[str, int] | None = None) -> list[Step]:
        chain = links.Chain(self, request, rows or {})
        found = [] if request.start is None else [chain.given_video()]
        if request.start is None:
            found.append(chain.first_frame() if request.first_image is None else chain.given_image())
            found += [] if request.output == IMAGE else [chain.key_frames()]
        found += [chain.interpolation(fps) for fps in self.pass_rates(request)]
        if request.superres and self.has_superres:
            found.append(chain.superres())
            found += [chain.iterative_superres()] if self.sampling_config.iterative_superres else []
        return [*found, chain.pixels()]

    def settings(self, stage: str, request: Request) -> DecodeSettings:
        """Sampling settings of a stage; the request's guidance overrides stage 1's scale."""
        config, last = self.sampling_config, None
        compat = Compat(request.compat)
        strategies = dict(base=config.first_frame, stage1=config.keyframes, stage2=config.interpolation)
        scale = self.guidance(request) if stage == "stage1" else None
        weight = config.text_log_weight if scale is None else 0.0
        if stage == "base" and compat == Compat.RELEASE:
            last = config.keyframes
        how = dict(int8_cache="cache" in self.opening.int8, growing_cache=self.opening.growing_cache)
        how |= dict(parallel_frames=default_parallel_frames(self.weights.models[stage].config))
        return DecodeSettings(strategies[stage], self.clusters, scale, weight, compat=compat, last_token=last, **how)

    def superres_settings(self) -> DirectSettings:
        """Sampling settings of super-resolution."""
        return DirectSettings(self.sampling_config.superres, self.clusters, **AT_ONCE)

    def guidance(self, request: Request) -> float | None:
        """Scale of classifier-free guidance in stage 1; None for none."""
        scale = self.sampling_config.guidance if request.guidance is None else request.guidance
        return None if scale is None or scale <= 1.0 else scale

    def windows_per_call(self, videos: int, frames: int, passes: int, most: int | None) -> int:
        """Interpolation windows that go through stage 2 together, in all passes.

        Args:
          frames: before the first pass.
          most: a limit beside the one in the sampling config.
        """
        last = videos * max(1, (frames - 1) * 2 ** (passes - 1) // 2) if passes else 1
        return round_up(min(last, self.sampling_config.windows_per_call or last, most or last))

    @functools.cached_property
    def clusters(self) -> int:
        """Number of clusters of image codes."""
        return int(self.weights.labels.max()) + 1

    # Texts ----------------------------------------------------------------------------------------------

    def texts(self, part: str, request: Request, fps: float | None = None) -> Texts:
        """Padded ids of what a part reads; for stage 1 with guidance, the guidance texts stand behind.

        Raises:
          UserError: a prompt that is too long.
        """
        config, prompts = self.sampling_config, request.prompts
        if part == ITERSR:  # reads the first few tokens only, in training too
            return self._padded(part, prompts, lambda prompt: self.text.encode(prompt)[: self._text_length(part)])
        if part == SUPERRES or request.output == IMAGE:
            return self._padded(part, prompts, self.text.encode)
        if part == "base":
            return self._padded(part, prompts, lambda prompt: self.text.encode(prompt + config.first_frame_suffix))
        guided = part == "stage1" and self.guidance(request) is not None
        suffix = config.guided_suffix if guided else ""
        texts = self._padded(part, prompts, lambda prompt: clip_text_ids(prompt + suffix, fps=fps, text=self.text))
        if not guided:
            return texts
        guidance = [GUIDANCE_TEXT] * len(prompts)
        against = self._padded(part, guidance, lambda text: clip_text_ids(text, fps=fps, text=self.text))
        return tuple(np.concatenate(pair) for pair in zip(texts, against))

    def _padded(self, part: str, prompts: Sequence[str], make_ids: Callable[[str], list[int]]) -> Texts:
        length = self._text_length(part)
        rows = []
        for prompt in prompts:
            ids = make_ids(prompt)
            if len(ids) > length:
                raise UserError(
                    f"the prompt takes {len(ids)} of the {length} text tokens that these weights read; "
                    f"shorten {prompt[:40]!r}"
                )
            rows.append(left_pad_text(ids, length=length, pad_id=self.text.pad_id))
        ids, mask = zip(*rows)
        return np.stack(ids), np.stack(mask)

    def _text_length(self, part: str) -> int:
        config = self.weights.models[part].config
        return config.text_length if part in (SUPERRES, ITERSR) else config.layout.text_length

    # Pictures -------------------------------------------------------------------------------------------

    def encode(self, frames: UInt8[np.ndarray, "n H W 3"]) -> Int[np.ndarray, "n N"]:
        """Ids of pictures."""
        return np.asarray(self.tokenizer.encode(frames))

    def decode(self, ids: Int[np.ndarray, "n N"], compat: Compat) -> UInt8[np.ndarray, "n H W 3"]:
        """Pictures of ids; the release stretches each from black to white."""
        if compat == Compat.EXACT:
            return self.tokenizer.decode(ids)
        pixels = np.asarray(self.tokenizer.decode_float(ids))
        low, high = (reduce(pixels, axis=(1, 2, 3), keepdims=True) for reduce in (np.min, np.max))
        return np.rint(255 * (pixels - low) / np.maximum(high - low, 1e-5)).astype(np.uint8)

    # A video to go on from ------------------------------------------------------------------------------

    def read_start(self, path: Path) -> tuple[Start, str]:
        codes = self.tokenizer.config.codebook_size
        found = read_key_frames(path, tokenizer=self.tokenizer.fingerprint, codes=codes)
        return Start(found.ids, found.fps), found.prompt

    def start_fps(self, fps: float | None, given: float | None) -> float:
        highest = max(self.sampling_config.interpolation_fps) if fps is None else fps
        rate = given or highest / 2
        self.sampling_config.pass_rates(rate, highest)
        return rate
