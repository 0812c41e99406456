"""The links of CogVideoX's chain, each with its programs, its memory and its run.

prompt -> T5 states -> (latents of the first picture, or of a video) -> denoising -> pixels
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from cogvideo_jax.diffusion.objective import add_noise
from cogvideo_jax.diffusion.samplers import StepTable, on_device
from cogvideo_jax.interface import Clips, Program, Request, Step, StepMemory
from cogvideo_jax.models.cogvideox import tiling
from cogvideo_jax.models.cogvideox import vae as vaes
from cogvideo_jax.models.cogvideox.clip import latents_of
from cogvideo_jax.models.cogvideox.denoise import Asked, State, denoise, normal_of_step
from cogvideo_jax.models.cogvideox.flops import text_flops, transformer_flops
from cogvideo_jax.models.cogvideox.positions import rotations, sine_cosine_table, takes_stored_table
from cogvideo_jax.models.cogvideox.snapshot import TEXT, TRANSFORMER, VAE
from cogvideo_jax.models.cogvideox.transformer import Positions
from cogvideo_jax.notation import Array, Float, Int, PyTree, UInt8
from cogvideo_jax.runtime.batching import calls_of, in_chunks
from cogvideo_jax.runtime.compiling import least_memory
from cogvideo_jax.runtime.mesh import round_up
from cogvideo_jax.runtime.pictures import resized
from cogvideo_jax.runtime.rng import stage_keys

if TYPE_CHECKING:
    from cogvideo_jax.models.cogvideox.pipeline import CogVideoXSampler

# Numbers folded into a video's key: one stream of randomness for each use of it.
LATENT_KEYS, POSTERIOR_KEYS, STEP_KEYS = 0, 1, 2
OFS = 2.0  # what 1.5-I2V was trained with
PASSES, PIECES = "passes", "pieces"  # limits: rows through the transformer, and pieces of the autoencoder's work
LOADED_COPIES = 2  # of an array on its way to the device: pages of the file, and the array made of them
Report = Callable[[], None]


class Made(NamedTuple):
    """Result of every step but the last.

    Attributes:
      text: T5 states; with guidance, of what is to be avoided before them.
      given: latents of the first picture or of the start video, scaled for the model.
      latents: denoised.
    """

    text: Float[Array, "R S E"]
    given: Float[Array, "B F h w C"] | None = None
    latents: Float[Array, "B F h w C"] | None = None


@least_memory(static_argnames="model")
def text_states(params: PyTree, ids: Int[Array, "R S"], *, model: Any) -> Float[Array, "R S E"]:
    """T5 states of prompts; pads are tokens like others."""
    return model.apply({"params": params}, ids)


class Chain:
    """Makes the links for one request.

    Args:
      rows: limit -> most rows or pieces a call.
    """

    def __init__(self, sampler: "CogVideoXSampler", request: Request, rows: Mapping[str, int]):
        self.sampler, self.request, self.rows = sampler, request, rows
        self.weights, self.videos = sampler.weights, len(request.prompts)
        config = self.weights.transformer.config
        self.frames, self.size = sampler.frames(request), sampler.size(request)
        self.latents = latents_of(config, self.frames, self.size)
        self.guided = sampler.guidance(request) > 1

    def text(self) -> Step:
        """Prompts, and what is to be avoided, through T5."""
        length = self.weights.transformer.config.max_text_seq_length
        prompts = [*([self.request.negative_prompt or ""] if self.guided else []), *self.request.prompts]
        model = self.weights.encoder

        def run(_: Any, report: Report) -> Made:
            ids = jnp.asarray(self.weights.text.padded(prompts, length))
            states = text_states(self.weights.params(TEXT), ids, model=model)
            if self.guided:
                states = jnp.concatenate([jnp.repeat(states[:1], self.videos, axis=0), states[1:]])
            made = Made(jax.block_until_ready(states))
            self.weights.release(TEXT)
            report()
            return made

        def programs() -> list[Program]:
            ids = jax.ShapeDtypeStruct((len(prompts), length), jnp.int32)
            return [Program(text_states.lower(self.weights.parts[TEXT].abstract, ids, model=model), 1)]

        flops = len(prompts) * text_flops(model.config, length)
        how = dict(rows=len(prompts), flops=flops, advice=self._advice("--batch 1"))
        return self._step("text", TEXT, run, programs, **how)

    def picture(self) -> Step:
        """The first picture as latents, drawn from the autoencoder's distribution."""
        config = self.weights.vae.config

        def run(made: Made, report: Report) -> Made:
            pixels = as_pixels(self.request.first_image[None], self.size)
            noise = self._normal(POSTERIOR_KEYS, (1, *self.latents.shape[1:], config.latent_channels))
            latents = vaes.sample(self._encode(jnp.asarray(pixels)), noise)
            # Differs from SAT's sampling of 1.5, which takes these latents unscaled; as diffusers has it.
            scaled = latents / config.scaling_factor if config.invert_scale_latents else latents * config.scaling_factor
            rest = jnp.zeros((self.videos, self.latents.frames - 1, *scaled.shape[2:]))
            report()
            return made._replace(given=jnp.concatenate([scaled, rest], axis=1))

        return self._encoding("first picture", 1, run)

    def start(self) -> Step:
        """The start video as latents, drawn from the autoencoder's distribution."""
        config = self.weights.vae.config

        def run(made: Made, report: Report) -> Made:
            pixels = as_pixels(self.request.start.frames[: self.frames], self.size)
            frames, *rest = self.latents.shape
            noise = self._normal(POSTERIOR_KEYS, (frames - self.latents.dropped, *rest, config.latent_channels))
            latents = vaes.sample(self._encode(jnp.asarray(pixels)), noise) * config.scaling_factor
            # Differs from diffusers: an odd number is refused there. As in training, the first is there twice.
            latents = jnp.concatenate([latents[:, : self.latents.dropped], latents], axis=1)
            report()
            return made._replace(given=latents)

        return self._encoding("start video", self.frames, run)

    def denoising(self) -> Step:
        """Noise, or a noised start video, to latents."""
        table, scales = self.sampler.table(self.request)
        model, loras, steps = self.weights.transformer, self.request.loras, len(table.timestep)
        rows = largest_divisor(self._text_rows, self.rows.get(PASSES, self._text_rows))
        how = dict(model=model, rows=rows, draw=normal_of_step if table.needs_noise else None)

        def run(made: Made, report: Report) -> Made:
            params = self.weights.params(TRANSFORMER, loras)
            state, asked = self._first_state(made, table), self._asked(made)
            arguments = on_device(table), jnp.asarray(scales, jnp.float32), stage_keys(self.request.keys(), STEP_KEYS)
            for step in range(steps):
                state = denoise(params, state, asked, *arguments, np.int32(step), np.int32(0), **how)
                jax.block_until_ready(state)
                report()
            return Made(made.text, latents=state.latents)

        def programs() -> list[Program]:
            made = jax.eval_shape(self._zeros)
            state, asked = jax.eval_shape(lambda made: (self._first_state(made, table), self._asked(made)), made)
            numbers = jax.ShapeDtypeStruct((), jnp.int32)
            guidance = jax.ShapeDtypeStruct(scales.shape, jnp.float32)
            arguments = jax.eval_shape(lambda: on_device(table)), guidance, jax.eval_shape(self.request.keys)
            params = self.weights.parts[TRANSFORMER].abstract
            return [Program(denoise.lower(params, state, asked, *arguments, numbers, numbers, **how), steps)]

        flops = steps * self._text_rows * transformer_flops(model.config, self.latents)
        limit = dict(rows=rows, limit=PASSES, advice=self._advice("--batch 1 or a smaller --size"))
        return self._step("denoising", TRANSFORMER, run, programs, calls=steps, flops=flops, **limit)

    def pixels(self) -> Step:
        """Latents to frames; a video at a time, and in tiles, if that is what fits."""
        config, pieces = self.weights.vae.config, self._pieces()

        rows = round_up(max(1, pieces // 2))

        def run(made: Made, report: Report) -> Clips:
            latents = made.latents[:, self.latents.dropped :] / config.scaling_factor
            params, decode = self.weights.params(VAE), tiling.tiled_decode if pieces < 2 else vaes.decode

            def frames_of(latents: Float[Array, "B F h w C"]) -> UInt8[np.ndarray, "B T H W 3"]:
                return as_frames(decode(self.weights.vae, params, latents.astype(self.weights.dtype)))

            frames = in_chunks(frames_of, (latents,), rows=rows, on_call=report)
            return Clips(frames, self.sampler.fps(self.request))

        calls = calls_of(self.videos, rows)

        def programs() -> list[Program]:
            shape = rows, self.latents.frames - self.latents.dropped, *self.latents.shape[1:], config.latent_channels
            clip = jax.ShapeDtypeStruct(shape, self.weights.dtype)
            lower = tiling.tiled_decode_programs if pieces < 2 else vaes.decode_programs
            params = self.weights.parts[VAE].abstract
            return [Program(one.lowered, calls * one.calls) for one in lower(self.weights.vae, params, clip)]

        pixels = self.frames * self.size[0] * self.size[1] * 3
        host = (self.videos + 1) * pixels * (1 + np.dtype(np.float32).itemsize)
        how = dict(calls=calls, rows=pieces, limit=PIECES, advice=self._advice("a smaller --size or fewer --frames"))
        return self._step("pixels", VAE, run, programs, host=host, **how)

    # What links share -----------------------------------------------------------------------------------

    def _step(self, name: str, part: str, run: Callable, programs: Callable, *, host: int = 0, **how: Any) -> Step:
        """A step that runs on one part; T5 is gone before the others come."""

        def memory() -> StepMemory:
            parts = self.weights.parts
            resident = [part, *(other for other in (TRANSFORMER, VAE) if other != part and self.weights.keep)]
            total = sum(parts[one].nbytes for one in resident)
            return StepMemory(parts[part].nbytes, total, LOADED_COPIES * parts[part].largest, host)

        return Step(name, **({"calls": 1} | how), programs=programs, memory=memory, run=run)

    def _encoding(self, name: str, frames: int, run: Callable) -> Step:
        """A step that runs the encoder on one clip."""
        clip = jax.ShapeDtypeStruct((1, frames, *self.size, self.weights.vae.config.in_channels), self.weights.dtype)
        tiled = self._pieces() < 2

        def programs() -> list[Program]:
            lower = tiling.tiled_encode_programs if tiled else vaes.encode_programs
            params = self.weights.parts[VAE].abstract
            return lower(self.weights.vae, params, clip)

        limit = dict(rows=self._pieces(), limit=PIECES, advice=self._advice("a smaller --size"))
        return self._step(name, VAE, run, programs, **limit)

    def _encode(self, pixels: Float[Array, "1 T H W c"]) -> Float[Array, "1 F h w M"]:
        encode = tiling.tiled_encode if self._pieces() < 2 else vaes.encode
        return encode(self.weights.vae, self.weights.params(VAE), pixels.astype(self.weights.dtype))

    def _pieces(self) -> int:
        """Twice the videos that go through the autoencoder together; 1 for one video in tiles."""
        return min(self.rows.get(PIECES, 2 * self.videos), 2 * self.videos)

    def _normal(self, stream: int, shape: tuple[int, ...]) -> Float[Array, "B ..."]:
        """Noise of every video."""
        keys = stage_keys(self.request.keys(), stream)
        return jax.vmap(lambda key: jax.random.normal(key, shape))(keys)

    def _first_state(self, made: Made, table: StepTable) -> State:
        noise = self._normal(LATENT_KEYS, (*self.latents.shape, self.weights.transformer.config.out_channels))
        if self.request.start is not None:
            alpha = jnp.full(self.videos, self.weights.schedule.alphas_cumprod[table.timestep[0]])
            noise = add_noise(made.given, noise, alpha)
        return State(noise, jnp.zeros_like(noise))

    def _asked(self, made: Made) -> Asked:
        config = self.weights.transformer.config
        ofs = None if config.ofs_embed_dim is None else jnp.float32(OFS)
        image = made.given if self.request.first_image is not None else None
        return Asked(made.text, image, ofs, self._positions())

    def _positions(self) -> Positions:
        config = self.weights.transformer.config
        grid = config.grid(self.latents.shape)
        turns = rotations(config, grid) if config.use_rotary_positional_embeddings else (None, None)
        stored = config.use_learned_positional_embeddings and takes_stored_table(config, grid)
        table = sine_cosine_table(config, grid) if config.adds_table and not stored else None
        return Positions(*(None if part is None else jnp.asarray(part) for part in (*turns, table)))

    @property
    def _text_rows(self) -> int:
        """Rows that go through the transformer at each step."""
        return self.videos * (2 if self.guided else 1)

    def _zeros(self) -> Made:
        """What the denoising gets, for its shapes."""
        config = self.weights.transformer.config
        shape = self._text_rows, config.max_text_seq_length, config.text_embed_dim
        given = jnp.zeros((self.videos, *self.latents.shape, config.out_channels))
        return Made(jnp.zeros(shape, self.weights.dtype), given)

    def _advice(self, first: str) -> str:
        """What a user can still change."""
        ways = [first, *(["--one-stage-at-a-time"] if self.weights.keep else [])]
        ways += ["--dtype bfloat16"] if self.weights.dtype == jnp.float32 else ["--int8 weights"]
        return "use " + " or ".join(ways)


def largest_divisor(rows: int, most: int) -> int:
    """Rows of a pass, so that all passes are equal."""
    return next(size for size in range(min(rows, most), 0, -1) if rows % size == 0)


def as_pixels(frames: UInt8[np.ndarray, "T _ _ 3"], size: tuple[int, int]) -> Float[np.ndarray, "1 T H W 3"]:
    """Frames at a size, in -1..1."""
    return np.stack([resized(frame, size) for frame in frames])[None].astype(np.float32) / 127.5 - 1


def as_frames(pixels: Float[Array, "B T H W 3"]) -> UInt8[np.ndarray, "B T H W 3"]:
    """Pixels in -1..1 as bytes."""
    return np.asarray(jnp.rint(jnp.clip(pixels.astype(jnp.float32) / 2 + 0.5, 0, 1) * 255).astype(jnp.uint8))
