"""Models and a whole pipeline beside diffusers, live, on inputs that no golden has; needs the extra [parity]."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax import load
from cogvideo_jax.cli.main import main
from cogvideo_jax.models.cogvideox import vae as vaes
from cogvideo_jax.models.cogvideox.bench.clip import measure_clip
from cogvideo_jax.models.cogvideox.snapshot import TEXT, TRANSFORMER, VAE
from cogvideo_jax.models.cogvideox.steps import LATENT_KEYS, OFS
from cogvideo_jax.runtime.rng import stage_keys
from tests.cogvideox.snapshots import write_snapshot
from tests.cogvideox.test_bench import MACHINE, TINY
from tests.cogvideox.test_transformer import positions_of

torch = pytest.importorskip("torch")
diffusers = pytest.importorskip("diffusers")
transformers = pytest.importorskip("transformers")

NAMES = ("t2v", "t2v_2b", "t2v_15", "i2v", "i2v_15")
ATOL = 1e-4  # of GOLDENS_X


@pytest.fixture(scope="module", autouse=True)
def _no_gradients():
    with torch.no_grad():
        yield


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    """Folder and opened weights by name."""
    root = tmp_path_factory.mktemp("snapshots")

    @functools.cache
    def of(name: str):
        folder = write_snapshot(root / name, f"x_pipeline_{name}")
        return folder, load(folder, dtype="float32").sampler.weights

    return of


def theirs(folder, part: str):
    """A model of diffusers or transformers with the weights of a part."""
    kinds = {
        TEXT: transformers.T5EncoderModel,
        TRANSFORMER: diffusers.CogVideoXTransformer3DModel,
        VAE: diffusers.AutoencoderKLCogVideoX,
    }
    return kinds[part].from_pretrained(folder / part).eval()


def draw(*shape: int, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).standard_normal(shape, dtype=np.float32)


def channels_last(x) -> np.ndarray:
    """(B, F, C, h, w) -> [B F h w C]."""
    return np.moveaxis(np.asarray(x), 2, -1)


@pytest.mark.parametrize("name", NAMES)
def test_velocities_are_equal(snapshots, name):
    folder, weights = snapshots(name)
    model, other = weights.transformer, theirs(folder, TRANSFORMER)
    config = model.config
    frames, rows, columns = 2 * config.frames_per_token, 6, 8
    latents = draw(2, frames, config.in_channels, rows, columns)
    text, times = (
        draw(2, config.max_text_seq_length, config.text_embed_dim, seed=1),
        np.array([801.0, 17.0], np.float32),
    )
    positions, options, extra = positions_of(config, (frames, rows, columns)), {}, {}
    if config.use_rotary_positional_embeddings:
        extra["image_rotary_emb"] = (torch.tensor(positions.cosines), torch.tensor(positions.sines))
    if config.ofs_embed_dim is not None:
        options["ofs"], extra["ofs"] = jnp.full(2, OFS), torch.full((1,), OFS)
    ours = jax.jit(model.apply)(
        {"params": weights.params(TRANSFORMER)}, channels_last(latents), text, times, positions, **options
    )
    found = other(torch.tensor(latents), torch.tensor(text), torch.tensor(times), **extra).sample
    np.testing.assert_allclose(ours, channels_last(found), atol=ATOL)


@pytest.mark.parametrize("name", ["t2v", "t2v_15"])
def test_the_autoencoder_is_equal_both_ways(snapshots, name):
    folder, weights = snapshots(name)
    other, params, model = theirs(folder, VAE), weights.params(VAE), weights.vae
    pixels = np.clip(draw(1, 3, 13, 32, 48, seed=2), -1, 1)
    moments = vaes.encode(model, params, np.moveaxis(pixels, 1, -1))
    found = other.encode(torch.tensor(pixels)).latent_dist.parameters
    np.testing.assert_allclose(moments, np.moveaxis(found.numpy(), 1, -1), atol=ATOL)
    latents = draw(1, model.config.latent_channels, 3, 4, 6, seed=3)
    ours = vaes.decode(model, params, np.moveaxis(latents, 1, -1))
    found = other.decode(torch.tensor(latents)).sample
    np.testing.assert_allclose(ours, np.moveaxis(found.numpy(), 1, -1), atol=ATOL)


def test_states_of_the_text_are_equal(snapshots):
    folder, weights = snapshots("t2v")
    ids = np.random.default_rng(4).integers(0, weights.encoder.config.vocab_size, (3, 11))
    ours = weights.encoder.apply({"params": weights.params(TEXT)}, ids)
    np.testing.assert_allclose(ours, theirs(folder, TEXT)(torch.tensor(ids))[0].numpy(), atol=ATOL)


@pytest.mark.parametrize("name", ["t2v", "t2v_2b", "t2v_15"])
def test_a_whole_pipeline_makes_the_same_frames(snapshots, name):
    folder, weights = snapshots(name)
    pipe, config = load(folder, dtype="float32"), weights.transformer.config
    frames, size, prompts = 9 if name != "t2v_15" else 17, (48, 64), ("", "a blue cat")
    request = pipe.request(
        prompts[1], seed=5, sampler="ddim", steps=3, guidance=4.0, dynamic_guidance=False, frames=frames, size=size
    )
    ours = pipe.run(request).frames
    ids = weights.text.padded(prompts, config.max_text_seq_length)
    avoided, asked = theirs(folder, TEXT)(torch.tensor(np.asarray(ids), dtype=torch.long))[0].split(1)
    shape = (-(-(frames - 1) // 4) + 1, size[0] // 8, size[1] // 8, config.out_channels)
    shape = (shape[0] + shape[0] % config.frames_per_token, *shape[1:])
    (key,) = stage_keys(request.keys(), LATENT_KEYS)
    noise = torch.tensor(np.moveaxis(np.asarray(jax.random.normal(key, shape)), -1, 1)[None])
    parts = dict(tokenizer=None, text_encoder=None, vae=theirs(folder, VAE), transformer=theirs(folder, TRANSFORMER))
    other = diffusers.CogVideoXPipeline(
        **parts, scheduler=diffusers.CogVideoXDDIMScheduler.from_pretrained(folder / "scheduler")
    )
    other.set_progress_bar_config(disable=True)
    how = dict(
        num_inference_steps=3, guidance_scale=4.0, num_frames=frames, height=size[0], width=size[1], output_type="np"
    )
    found = other(prompt_embeds=asked, negative_prompt_embeds=avoided, latents=noise, **how).frames
    assert np.abs(np.rint(found * 255) - ours).max() <= 1


def test_a_clip_is_timed_from_start_to_file():
    row = measure_clip(TINY, machine=MACHINE, steps=2, frames=9, pixels=(48, 64))
    assert row.seconds > 1 and row.other > 1 and row.steps == 2


def test_diffusers_loads_what_is_converted_back(snapshots, tmp_path):
    folder, _ = snapshots("t2v")
    assert main(["convert", "--family", "cogvideox", "--to-diffusers", str(folder), str(tmp_path / "out")]) == 0
    for part in (TEXT, TRANSFORMER, VAE):
        once, again = (theirs(where, part).state_dict() for where in (folder, tmp_path / "out"))
        assert once.keys() == again.keys() and all(torch.equal(once[key], again[key]) for key in once)
