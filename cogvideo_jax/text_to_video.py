"""prompt -> video: the paper's figure 2 as one readable function.

    first frame (base) -> 5 key frames (stage 1) -> 9 -> 17 -> 33 frames (stage 2, recursively) -> pixels (VQ decoder)

A folder of weights holds `pipeline.json` (the recipe), `text.model` and one safetensors file a part; stages 1 and 2
hold only what CogVideo adds, the inherited base is stored once.
"""

import dataclasses
import json
from collections.abc import Sequence
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from cogvideo_jax.model.config import Compat, TransformerConfig, from_dict
from cogvideo_jax.model.transformer import Transformer
from cogvideo_jax.notation import Array, Int, Key, PyTree, UInt8
from cogvideo_jax.runtime.metrics import progress_bar
from cogvideo_jax.runtime.weights import load_weights
from cogvideo_jax.sampling.decode import DecodeSettings
from cogvideo_jax.sampling.interpolate import interpolate_once
from cogvideo_jax.sampling.keyframes import first_frame, key_frames
from cogvideo_jax.sampling.logits import Strategy
from cogvideo_jax.tokens.text import GUIDANCE_TEXT, TextTokenizer, clip_text_ids, left_pad_text
from cogvideo_jax.tokens.vq_tokenizer import VQTokenizer, load_tokenizer

DEMO_WEIGHTS = Path(__file__).parent / "demo_weights"
PARTS = ("tokenizer", "base", "stage1", "stage2")


@dataclasses.dataclass(frozen=True)
class Recipe:
    """How a set of weights wants to be sampled; `pipeline.json`.

    Attributes:
      pixels: side of the square frames.
      keyframe_fps: frame rates at which stage 1 was trained; a clip lasts (T - 1) / rate seconds.
      interpolation_fps: frame rates that stage 2 can produce.
      first_frame, keyframes, interpolation: how tokens are drawn in each.
      first_frame_suffix: behind the prompt for the base.
      guidance: scale in stage 1, None for none.
      guided_suffix: behind the prompt in stage 1 when guided.
      text_log_weight: added to scores towards text wherever there is no guidance.
      windows_per_call: interpolation windows that go through stage 2 together.
      whole_words: the text model has every word it was trained on as one piece, so that a word in several pieces is
        one that the weights have never seen.
    """

    pixels: int
    keyframe_fps: tuple[float, ...]
    interpolation_fps: tuple[float, ...]
    first_frame: Strategy
    keyframes: Strategy
    interpolation: Strategy
    first_frame_suffix: str
    guidance: float | None
    guided_suffix: str
    text_log_weight: float
    windows_per_call: int
    whole_words: bool


class Stage:
    """A model and its parameters."""

    def __init__(self, config: TransformerConfig, params: PyTree):
        self.model = Transformer(config)
        self.params = params


class TextToVideo:
    """Loaded weights; call it with prompts and a key.

    >>> video = TextToVideo.load()
    >>> frames = video(["a red ball bounces to the right"], jax.random.key(0))  # uint8 [1, 33, 64, 64, 3]
    """

    def __init__(
        self,
        recipe: Recipe,
        text: TextTokenizer,
        tokenizer: VQTokenizer,
        stages: dict[str, Stage],
        labels: Array,
    ):
        self.recipe, self.text, self.tokenizer, self.stages, self.labels = (
            recipe,
            text,
            tokenizer,
            stages,
            labels,
        )
        self._clusters = int(labels.max()) + 1

    @classmethod
    def load(cls, folder: str | Path = DEMO_WEIGHTS) -> "TextToVideo":
        """Reads a folder of weights, by default the demo's.

        Raises:
          ValueError: one sentence, if something is missing, damaged or does not fit.
        """
        folder = Path(folder)
        recipe = read_recipe(folder / "pipeline.json")
        tokenizer = load_tokenizer(folder / "tokenizer.safetensors")
        base, base_description = load_weights(folder / "base.safetensors")
        base = jax.tree.map(jnp.asarray, base)
        stages = {"base": Stage(from_dict(base_description["config"]), base)}
        for name in ("stage1", "stage2"):
            added, description = load_weights(folder / f"{name}.safetensors")
            params = unflatten_dict(flatten_dict(base) | flatten_dict(jax.tree.map(jnp.asarray, added)))
            stages[name] = Stage(from_dict(description["config"]), params)
        codes = tokenizer.config.codebook_size
        text = TextTokenizer.from_file(folder / "text.model", image_codes=codes)
        labels = folder / "cluster_labels.npy"
        labels = np.load(labels, allow_pickle=False) if labels.exists() else np.arange(codes)
        return cls(recipe, text, tokenizer, stages, jnp.asarray(labels, jnp.int32))

    def __call__(
        self,
        prompts: Sequence[str],
        rng: Key[Array, ""] | Key[Array, "B"],
        *,
        fps: float | None = None,
        seconds: float | None = None,
        guidance: float | None = None,
        first_image: UInt8[np.ndarray, "H W 3"] | None = None,
        compat: Compat = Compat.EXACT,
        progress: bool = False,
    ) -> UInt8[np.ndarray, "B T H W 3"]:
        """Videos of the prompts.

        Args:
          prompts: one sentence a video.
          rng: one key, split into one a prompt; or one key a prompt.
          fps: frames a second of the result; by default all that the weights can give.
          seconds: length; by default the shortest that stage 1 was trained for.
          guidance: scale in stage 1 instead of the recipe's; 1 or less turns it off.
          first_image: the first frame of every video, pixels x pixels.
          compat: whose sampling arithmetic.
          progress: show one bar on a terminal.

        Raises:
          ValueError: a prompt that is empty or too long, or a rate or length that the weights cannot give.
        """
        key_rate, rounds = self._plan(fps, seconds)
        rngs = rng if rng.ndim else jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(len(prompts)))
        texts = self._texts(prompts, key_rate, rounds, self._guidance(guidance) is not None)
        with progress_bar(total=self._work(len(prompts), rounds), desc="first frame", disable=not progress) as bar:
            frames = self._first(texts["first"], rngs, first_image, compat)
            bar.update()
            bar.set_description("key frames")
            frames = self._keyframes(texts["keyframes"], frames, rngs, guidance, compat, bar.update)
            for rate in rounds:
                bar.set_description(f"{2 * frames.shape[1] - 1} frames")
                frames = self._interpolate(texts[rate], frames, rngs, rate, compat, bar.update)
            bar.set_description("pixels")
            pixels = self._decode(frames)
            bar.update()
        return pixels

    def interpolate(
        self,
        key_frames: UInt8[np.ndarray, "B T H W 3"],
        prompts: Sequence[str],
        rng: Key[Array, ""] | Key[Array, "B"],
        *,
        compat: Compat = Compat.EXACT,
    ) -> UInt8[np.ndarray, "B T2 H W 3"]:
        """Stage 2 alone: fills frames in between pictures that are given at the key frame rate."""
        batch, length = key_frames.shape[:2]
        rngs = rng if rng.ndim else jax.vmap(jax.random.fold_in, (None, 0))(rng, jnp.arange(batch))
        key_rate, rounds = self._plan(None, None)
        texts = self._texts(prompts, key_rate, rounds, False)
        ids = self.tokenizer.encode(key_frames.reshape(batch * length, *key_frames.shape[2:]))
        frames = ids.reshape(batch, length, -1)
        for rate in rounds:
            frames = self._interpolate(texts[rate], frames, rngs, rate, compat, lambda: None)
        return self._decode(frames)

    def check(self, prompt: str) -> None:
        """Raises ValueError if a prompt cannot be used."""
        key_rate, rounds = self._plan(None, None)
        self._texts([prompt], key_rate, rounds, True)

    def unknown_words(self, prompt: str) -> list[str]:
        """Words and signs of a prompt that the weights were never trained on."""
        if not self.recipe.whole_words:
            return self.text.spelled(prompt)
        return self.text.unknown_words(prompt)

    def _plan(self, fps: float | None, seconds: float | None) -> tuple[float, list[float]]:
        """Key frame rate, and the rate after each round of interpolation."""
        recipe, intervals = self.recipe, self.stages["stage1"].model.config.layout.frames - 1
        lengths = {intervals / rate: rate for rate in recipe.keyframe_fps}
        seconds = min(lengths) if seconds is None else seconds
        if seconds not in lengths:
            possible = ", ".join(f"{length:g}" for length in sorted(lengths))
            raise ValueError(f"these weights make videos of {possible} seconds, not {seconds:g}")
        key_rate = lengths[seconds]
        rates = [key_rate]
        while rates[-1] * 2 in recipe.interpolation_fps:
            rates.append(rates[-1] * 2)
        fps = rates[-1] if fps is None else fps
        if fps not in rates:
            possible = ", ".join(f"{rate:g}" for rate in rates)
            raise ValueError(f"these weights give {possible} frames a second, not {fps:g}")
        return key_rate, rates[1 : rates.index(fps) + 1]

    def rate(self, fps: float | None, seconds: float | None) -> float:
        """Frames a second of a call with these arguments."""
        key_rate, rounds = self._plan(fps, seconds)
        return rounds[-1] if rounds else key_rate

    def _work(self, prompts: int, rounds: list[float]) -> int:
        """Units of the progress bar: frames written at once, and the decoding."""
        layout, chunk = self.stages["stage1"].model.config.layout, self.recipe.windows_per_call
        windows = [prompts * (layout.frames - 1) // 2 * 2**i for i in range(len(rounds))]
        return layout.frames + sum(2 * -(-rows // chunk) for rows in windows) + 1

    def _guidance(self, guidance: float | None) -> float | None:
        scale = self.recipe.guidance if guidance is None else guidance
        return None if scale is None or scale <= 1.0 else scale

    def _texts(self, prompts: Sequence[str], key_rate: float, rounds: list[float], guided: bool) -> dict:
        """Padded ids and masks of every step."""
        suffix = self.recipe.guided_suffix if guided else ""

        def padded(stage: str, make):
            length = self.stages[stage].model.config.layout.text_length
            return self._pad([(prompt, make(prompt)) for prompt in prompts], length)

        texts = {
            "first": padded("base", lambda p: self.text.encode(p + self.recipe.first_frame_suffix)),
            "keyframes": padded("stage1", lambda p: clip_text_ids(p + suffix, fps=key_rate, text=self.text)),
        }
        for rate in rounds:
            texts[rate] = padded("stage2", lambda p, rate=rate: clip_text_ids(p, fps=rate, text=self.text))
        if guided:
            against = padded("stage1", lambda _: clip_text_ids(GUIDANCE_TEXT, fps=key_rate, text=self.text))
            texts["keyframes"] = tuple(jnp.concatenate(pair) for pair in zip(texts["keyframes"], against))
        return texts

    def _pad(self, rows: list[tuple[str, list[int]]], length: int) -> tuple[Array, Array]:
        for prompt, ids in rows:
            if not prompt.strip():
                raise ValueError("the prompt is empty; describe the video in a sentence")
            if len(ids) > length:
                raise ValueError(
                    f"the prompt takes {len(ids)} of the {length} text tokens that these weights read; "
                    f"shorten {prompt[:40]!r}"
                )
        padded = [left_pad_text(ids, length=length, pad_id=self.text.pad_id) for _, ids in rows]
        return tuple(jnp.asarray(np.stack(column)) for column in zip(*padded))

    def _first(self, text, rngs, image, compat) -> Int[Array, "B 1 N"]:
        if image is not None:
            ids = self.tokenizer.encode(image[None])
            return jnp.repeat(ids[:, None], rngs.shape[0], axis=0)
        recipe, stage = self.recipe, self.stages["base"]
        settings = self._settings(recipe.first_frame, None, recipe.text_log_weight, compat)
        if compat == Compat.RELEASE:
            settings = dataclasses.replace(settings, last_token=recipe.keyframes)
        keys = _stage_keys(rngs, 0)
        return first_frame(stage.params, *text, keys, self.labels, model=stage.model, settings=settings)

    def _keyframes(self, text, first, rngs, guidance, compat, on_frame) -> Int[Array, "B T N"]:
        recipe, stage, guidance = self.recipe, self.stages["stage1"], self._guidance(guidance)
        weight = recipe.text_log_weight if guidance is None else 0.0
        settings = self._settings(recipe.keyframes, guidance, weight, compat)
        return key_frames(
            stage.params,
            *text,
            first,
            _stage_keys(rngs, 1),
            self.labels,
            model=stage.model,
            settings=settings,
            on_frame=on_frame,
        )

    def _interpolate(self, text, frames, rngs, rate, compat, on_frame) -> Int[Array, "B 2T-1 N"]:
        recipe, stage = self.recipe, self.stages["stage2"]
        return interpolate_once(
            stage.params,
            *text,
            frames,
            _stage_keys(rngs, 1 + frames.shape[1]),
            self.labels,
            model=stage.model,
            settings=self._settings(recipe.interpolation, None, recipe.text_log_weight, compat),
            chunk=recipe.windows_per_call,
            on_frame=on_frame,
        )

    def _settings(self, strategy: Strategy, guidance: float | None, weight: float, compat: Compat) -> DecodeSettings:
        return DecodeSettings(strategy, self._clusters, guidance, weight, compat=compat)

    def _decode(self, frames: Int[Array, "B T N"]) -> UInt8[np.ndarray, "B T H W 3"]:
        batch, length, tokens = frames.shape
        pixels = self.tokenizer.decode(frames.reshape(batch * length, tokens))
        return pixels.reshape(batch, length, *pixels.shape[1:])


def _stage_keys(rngs: Key[Array, "B"], stage: int) -> Key[Array, "B"]:
    return jax.vmap(jax.random.fold_in, (0, None))(rngs, stage)


def read_recipe(path: Path) -> Recipe:
    """Reads `pipeline.json`. Raises ValueError if it is missing or not a recipe."""
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
        strategies = {name: Strategy(**values.pop(name)) for name in ("first_frame", "keyframes", "interpolation")}
        rates = {name: tuple(values.pop(name)) for name in ("keyframe_fps", "interpolation_fps")}
        return Recipe(**values, **strategies, **rates)
    except OSError as error:
        raise ValueError(f"{path.parent} is no folder of weights: it has no readable pipeline.json") from error
    except (KeyError, TypeError, AttributeError, json.JSONDecodeError) as error:
        raise ValueError(f"{path} is not a recipe of this project: {error}") from error


def write_recipe(path: Path, recipe: Recipe) -> None:
    """Writes `pipeline.json`."""
    path.write_text(json.dumps(dataclasses.asdict(recipe), ensure_ascii=False, indent=1), encoding="utf-8")
