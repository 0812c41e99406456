"""Whole pipelines against diffusers: text to video, image to video, video to video, with control."""

import functools
import re

import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.diffusion.guidance import constant_scales, dynamic_scales
from cogvideo_jax.diffusion.objective import add_noise
from cogvideo_jax.diffusion.samplers import SAMPLERS, on_device
from cogvideo_jax.diffusion.schedules import Schedule
from cogvideo_jax.models.cogvideox import vae as vaes
from cogvideo_jax.models.cogvideox.denoise import Asked, State, denoise
from cogvideo_jax.models.cogvideox.transformer import Transformer
from cogvideo_jax.models.cogvideox.vae_config import VaeConfig
from cogvideo_jax.nn.t5 import T5Config, T5Encoder
from cogvideo_jax.runtime.pictures import resized
from tests.cogvideox.goldens import FOLDER, load, params_of
from tests.cogvideox.test_transformer import config_of, positions_of

NAMES = sorted(path.stem for path in FOLDER.glob("x_pipeline_*.npz"))
ATOL = 2e-4
SCALE = 6.0


@pytest.fixture(scope="module", autouse=True)
def _as_users_run_it(full_optimisation):
    """Every test of this file."""


class Golden:
    """Models and numbers of one file."""

    def __init__(self, name: str):
        self.config, self.arrays = load(name)
        values = self.config["transformer"]
        self.transformer = Transformer(config_of(values))
        self.vae = vaes.Vae(vae_config(self.config["vae"]))
        known = T5Config.__dataclass_fields__
        values = {key: value for key, value in self.config["text_encoder"].items() if key in known}
        self.t5 = T5Encoder(T5Config(**values))
        self.schedule = Schedule(snr_shift=1.0 if self.transformer.config.use_rotary_positional_embeddings else 3.0)

    @functools.cached_property
    def params(self):
        of = functools.partial(params_of, arrays=self.arrays)
        return dict(
            transformer=of(
                self.transformer,
                self.transformer.empty_inputs(),
                prefix="param:transformer.",
                **self.transformer.empty_options(),
            ),
            vae=of(self.vae, (jnp.zeros((1, 1, 32, 32, 3)),), prefix="param:vae."),
            t5=of(self.t5, (jnp.zeros((1, 4), jnp.int32),), prefix="param:text_encoder."),
        )

    def video(self, name: str):
        """uint8 frames as pixels [1 T H W 3] in -1..1, at the size of the clip."""
        frames = self.arrays[name]
        frames = frames if frames.ndim == 4 else frames[None]
        size = self.config["height"], self.config["width"]
        return np.stack([resized(frame, size) for frame in frames])[None].astype(np.float32) / 127.5 - 1


def vae_config(values: dict) -> VaeConfig:
    known = VaeConfig.__dataclass_fields__
    tupled = {key: tuple(value) if isinstance(value, list) else value for key, value in values.items()}
    return VaeConfig(**{key: value for key, value in tupled.items() if key in known})


golden = functools.cache(Golden)


def cases() -> list[tuple[str, str]]:
    assert NAMES
    return [
        (name, found[1])
        for name in NAMES
        for key in golden(name).arrays
        if (found := re.fullmatch(r"(\w+)\.latents", key))
    ]


def ours(latents):
    """(B, F, C, h, w) -> [B F h w C]."""
    return np.moveaxis(latents, 2, -1)


@pytest.mark.parametrize("name", NAMES)
def test_text_states_equal_those_of_transformers(name):
    file = golden(name)
    out = file.t5.apply({"params": file.params["t5"]}, file.arrays["input_ids"])
    np.testing.assert_allclose(out, file.arrays["embeds"], atol=1e-4)


def start_of(file: Golden, case: str, schedule: Schedule):
    """First latents [B F h w C], latents of the condition, number of noises used, and steps that are left out."""
    arrays, config = file.arrays, file.vae.config
    get = lambda name: arrays[f"{case}.{name}"]  # noqa: E731
    encode = functools.partial(vaes.encode, file.vae, file.params["vae"])
    frames = get("latents").shape[2]
    if "image_uint8" in arrays:
        image = "big_uint8" if case.endswith("resized") else "image_uint8"
        latent = vaes.sample(encode(file.video(image)), np.moveaxis(get("noise0"), 1, -1))
        image = latent / config.scaling_factor if config.invert_scale_latents else latent * config.scaling_factor
        rest = jnp.zeros((1, frames - 1, *image.shape[2:]))
        return ours(get("noise1")), jnp.concatenate([image, rest], axis=1), 2
    if "video_uint8" in arrays:
        latent = vaes.sample(encode(file.video("video_uint8")), np.moveaxis(get("noise0"), 1, -1))
        alpha = schedule.alphas_cumprod[get("timesteps")[:1]]
        return add_noise(latent * config.scaling_factor, ours(get("noise1")), alpha), None, 2
    if "control_uint8" in arrays:
        control = vaes.mode(encode(file.video("control_uint8"))) * config.scaling_factor
        return ours(get("latents0")), control, 0
    return ours(arrays.get(f"{case}.latents0", arrays.get(f"{case}.noise0"))), None, int(f"{case}.noise0" in arrays)


def noises_of(arrays, case: str, used: int, steps: int):
    """The noise that each step uses, zeros where it adds none: of two draws the second; one on the first and last."""
    shape = ours(arrays[f"{case}.latents"][0]).shape
    found, number = [], used
    for step in range(steps):
        number += 0 if step in (0, steps - 1) else 1
        key = f"{case}.noise{number}"
        found.append(ours(arrays[key]) if key in arrays else np.zeros(shape, np.float32))
        number += 1
    return jnp.asarray(np.stack(found))


@pytest.mark.parametrize(("name", "case"), cases())
def test_latents_and_frames_equal_those_of_diffusers(name, case):
    file = golden(name)
    arrays, timesteps = file.arrays, file.arrays[f"{case}.timesteps"]
    sampler = "dpm" if case.startswith("dpm") else "ddim"
    total = steps_of(file, case, timesteps)
    table = SAMPLERS[sampler](file.schedule, total, skip=total - len(timesteps))
    np.testing.assert_array_equal(table.timestep, timesteps)
    guided = len(arrays[f"{case}.first_model_input"]) == 2
    recorded = arrays[f"{case}.guidance"]
    dynamic = guided and "dyn" in case
    scales = dynamic_scales(SCALE, timesteps, steps=len(timesteps)) if dynamic else constant_scales(SCALE, timesteps)
    if guided:
        np.testing.assert_allclose(scales, recorded, atol=1e-6)
    latents, image, used = start_of(file, case, file.schedule)
    noises = noises_of(arrays, case, used, len(timesteps))
    embeds = jnp.asarray(arrays["embeds"])
    config = file.transformer.config
    asked = Asked(
        embeds if guided else embeds[1:],
        image,
        None if config.ofs_embed_dim is None else jnp.float32(2.0),
        positions_of(config, latents.shape[1:4]),
    )
    first = np.moveaxis(arrays[f"{case}.first_model_input"], 2, -1)[-1:]
    given = latents if image is None else jnp.concatenate([latents, image], axis=-1)
    np.testing.assert_allclose(given, first, atol=ATOL)
    state = State(jnp.asarray(latents), jnp.zeros_like(latents))
    how = dict(model=file.transformer, rows=2, draw=drawn_before)
    arguments = asked, on_device(table), jnp.asarray(scales, jnp.float32), noises
    for step, expected in enumerate(arrays[f"{case}.latents"]):
        state = denoise(file.params["transformer"], state, *arguments, np.int32(step), np.int32(0), **how)
        np.testing.assert_allclose(state.latents, ours(expected), atol=ATOL)
    expect_frames(file, case, state.latents)


def drawn_before(noises, step, shape):
    return noises[step]


def steps_of(file: Golden, case: str, timesteps) -> int:
    """Steps of the whole run, of which a start video leaves out the first."""
    return next(
        n
        for n in range(len(timesteps), 10 * len(timesteps) + 1)
        if np.array_equal(SAMPLERS["ddim"](file.schedule, n, skip=n - len(timesteps)).timestep, timesteps)
    )


def expect_frames(file: Golden, case: str, latents) -> None:
    expected, sub4 = file.arrays.get(f"{case}.frames"), file.arrays.get(f"{case}.frames_sub4")
    frames = (expected if expected is not None else sub4).shape[1]
    dropped = latents.shape[1] - ((frames - 1) // 4 + 1)
    unscaled = latents[:, dropped:] / file.vae.config.scaling_factor
    pixels = np.clip(np.asarray(vaes.decode(file.vae, file.params["vae"], unscaled)) / 2 + 0.5, 0, 1)
    if expected is not None:
        np.testing.assert_allclose(pixels, expected, atol=ATOL)
    else:
        np.testing.assert_allclose(pixels[:, :, ::4, ::4], sub4, atol=ATOL)


@pytest.mark.parametrize("name", [name for name in NAMES if "big_uint8" in golden(name).arrays])
def test_pictures_are_resized_as_by_diffusers(name):
    file = golden(name)
    found = np.moveaxis(file.video("big_uint8")[0, 0], -1, 0)
    np.testing.assert_allclose(found, file.arrays["big_preprocessed"].reshape(found.shape), atol=2 / 255)


def test_all_steps_in_one_call_and_guidance_in_two_passes_are_the_same():
    file = golden(NAMES[0] if "x_pipeline_t2v" not in NAMES else "x_pipeline_t2v")
    case = "ddim"
    arrays, timesteps = file.arrays, file.arrays[f"{case}.timesteps"]
    table, scales = on_device(SAMPLERS["ddim"](file.schedule, len(timesteps))), constant_scales(SCALE, timesteps)
    latents, image, _ = start_of(file, case, file.schedule)
    config = file.transformer.config
    asked = Asked(jnp.asarray(arrays["embeds"]), image, None, positions_of(config, latents.shape[1:4]))
    state = State(jnp.asarray(latents), jnp.zeros_like(latents))
    arguments = asked, table, jnp.asarray(scales, jnp.float32), None, np.int32(0), np.int32(len(timesteps) - 1)
    state = denoise(file.params["transformer"], state, *arguments, model=file.transformer, rows=1, draw=None)
    np.testing.assert_allclose(state.latents, ours(arrays[f"{case}.latents"][-1]), atol=ATOL)
