"""The transformer of every variant against diffusers."""

import dataclasses
import functools
import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from cogvideo_jax.convert.torch_names import from_torch, torch_name
from cogvideo_jax.diffusion.objective import add_noise, velocity_loss
from cogvideo_jax.diffusion.schedules import Schedule
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideox.config import RELEASED, TransformerConfig
from cogvideo_jax.models.cogvideox.positions import (
    cropped,
    rotations,
    sine_cosine_table,
    takes_stored_table,
)
from cogvideo_jax.models.cogvideox.transformer import Positions, Transformer
from cogvideo_jax.nn.embeddings import sinusoid
from cogvideo_jax.nn.lora import merged, read_lora
from cogvideo_jax.runtime.schemas import check
from tests.cogvideox.goldens import FOLDER, load, params_of

VARIANTS = ("2b", "5b", "5b_i2v", "15", "15_i2v")
ATOL = 1e-4


@pytest.fixture(scope="module", autouse=True)
def _as_users_run_it(full_optimisation):
    """Every test of this file."""


def config_of(values: dict) -> TransformerConfig:
    return check(values, TransformerConfig, where="a golden")


@functools.cache
def golden(variant: str):
    config, arrays = load(f"x_transformer_{variant}")
    model = Transformer(config_of(config["config"]))
    params = params_of(model, model.empty_inputs(), arrays, **model.empty_options())
    return config, arrays, model, params


def cases() -> list[tuple[str, str]]:
    found = [(v, name[0]) for v in VARIANTS for name in golden(v)[1] if re.fullmatch(r"\w\.hidden_states", name)]
    assert {variant for variant, _ in found} == set(VARIANTS)
    return found


def positions_of(config: TransformerConfig, shape: tuple[int, ...]) -> Positions:
    """What the pipeline makes for latents [F, h, w]."""
    grid = config.grid(shape)
    turns = rotations(config, grid) if config.use_rotary_positional_embeddings else (None, None)
    stored = config.use_learned_positional_embeddings and takes_stored_table(config, grid)
    table = sine_cosine_table(config, grid) if config.adds_table and not stored else None
    return Positions(*turns, table)


def inputs_of(arrays, case: str, model: Transformer):
    latents = np.moveaxis(arrays[f"{case}.hidden_states"], 2, -1)
    text, timestep = arrays[f"{case}.encoder_hidden_states"], arrays[f"{case}.timestep"].astype(np.float32)
    ofs = arrays.get(f"{case}.ofs")
    options = {} if ofs is None else {"ofs": np.broadcast_to(ofs, timestep.shape).astype(np.float32)}
    config = dataclasses.replace(model.config, max_text_seq_length=text.shape[1])
    return (latents, text, timestep, positions_of(config, latents.shape[1:4])), options


@pytest.mark.parametrize(("variant", "case"), cases())
def test_velocities_equal_those_of_diffusers(variant, case):
    _, arrays, model, params = golden(variant)
    inputs, options = inputs_of(arrays, case, model)
    out = jax.jit(model.apply)({"params": params}, *inputs, **options)
    np.testing.assert_allclose(np.moveaxis(out, -1, 2), arrays[f"{case}.out"], atol=ATOL)


@pytest.mark.parametrize("variant", VARIANTS)
def test_inner_values_equal_those_of_diffusers(variant):
    _, arrays, model, params = golden(variant)
    inputs, options = inputs_of(arrays, "a", model)
    apply = jax.jit(functools.partial(model.apply, capture_intermediates=True, mutable="intermediates"))
    _, kept = apply({"params": params}, *inputs, **options)
    kept, length = kept["intermediates"], inputs[1].shape[1]
    close = functools.partial(np.testing.assert_allclose, atol=ATOL)
    close(sinusoid(inputs[2], model.config.width), arrays["a.mid.sinusoid"])
    close(kept["time_embedding"]["__call__"][0], arrays["a.mid.time_embedding"])
    close(kept["patch_embed"]["__call__"][0], arrays["a.mid.patch_embed"])
    close(kept["norm_out"]["__call__"][0], arrays["a.mid.norm_out"])
    for number in range(model.config.num_layers):
        x = kept[f"transformer_blocks_{number}"]["__call__"][0][0]
        close(x[:, :length], arrays[f"a.mid.block{number}.text"])
        close(x[:, length:], arrays[f"a.mid.block{number}.video"])


@pytest.mark.parametrize("variant", VARIANTS)
def test_scanned_blocks_equal_unrolled_ones(variant):
    _, arrays, model, params = golden(variant)
    inputs, options = inputs_of(arrays, "a", model)
    blocks = [params[f"transformer_blocks_{number}"] for number in range(model.config.num_layers)]
    rest = {name: leaf for name, leaf in params.items() if not name.startswith("transformer_blocks")}
    stacked = rest | {"transformer_blocks": jax.tree.map(lambda *leaves: jnp.stack(leaves), *blocks)}
    out = jax.jit(model.clone(unrolled=False).apply)({"params": stacked}, *inputs, **options)
    np.testing.assert_allclose(np.moveaxis(out, -1, 2), arrays["a.out"], atol=ATOL)


@pytest.mark.parametrize("variant", [v for v in VARIANTS if "a.loss" in golden(v)[1]])
def test_gradients_equal_those_of_diffusers(variant):
    config, arrays, model, params = golden(variant)
    inputs, options = inputs_of(arrays, "a", model)
    target = np.moveaxis(arrays["a.target"], 2, -1)

    def loss(params, latents, text):
        out = model.apply({"params": params}, latents, text, *inputs[2:], **options)
        return jnp.square(out - target).mean()

    value, (grads, of_latents, of_text) = jax.jit(jax.value_and_grad(loss, argnums=(0, 1, 2)))(params, *inputs[:2])
    assert value == pytest.approx(float(arrays["a.loss"]), rel=1e-5)
    close_to_largest(np.moveaxis(of_latents, -1, 2), arrays["a.grad_hidden_states"])
    close_to_largest(of_text, arrays["a.grad_encoder_hidden_states"])
    require_gradients(grads, arrays, config["gradnorm"], "grad:")


def close_to_largest(found, expected) -> None:
    np.testing.assert_allclose(found, expected, atol=1e-4 * np.abs(expected).max())


def require_gradients(grads, arrays, norms: dict, prefix: str, none: tuple[str, ...] = ()) -> None:
    """Gradients equal the recorded ones, and all their norms."""
    leaves = {torch_name(path): (path, leaf) for path, leaf in flatten_dict(grads, sep="/").items()}
    for name, norm in norms.items():
        if name not in none:
            assert np.linalg.norm(leaves[name][1]) == pytest.approx(norm, rel=1e-3, abs=1e-6), name
    recorded = [name for name in arrays if name.startswith(prefix)]
    assert recorded
    for name in recorded:
        path, leaf = leaves[name.removeprefix(prefix)]
        if name.removeprefix(prefix) not in none:
            close_to_largest(leaf, from_torch(path, arrays[name], leaf.shape))


TRAINED = [(name, load("x_train_loss")) for name in load("x_train_loss")[0]["configs"]]


@pytest.mark.parametrize(("case", "golden_"), TRAINED, ids=[name for name, _ in TRAINED])
def test_training_losses_and_their_gradients_equal_those_of_the_public_trainer(case, golden_):
    recorded, arrays = golden_
    values = dict(recorded["configs"][case])
    shift = values.pop("snr_shift_scale", 1.0)
    model = Transformer(config_of(values))
    own = {name.removeprefix(f"{case}."): value for name, value in arrays.items() if name.startswith(f"{case}.")}
    params = params_of(model, model.empty_inputs(), arrays, prefix=f"param:{case}.", **model.empty_options())
    x, noise = np.moveaxis(own["latent"], 1, -1), np.moveaxis(own["noise"], 2, -1)
    alpha = Schedule(snr_shift=shift).alphas_cumprod[own["timesteps"]]
    noisy = np.asarray(add_noise(x, noise, alpha))
    np.testing.assert_allclose(np.moveaxis(noisy, -1, 2), own["noisy"], atol=1e-5)
    latents = noisy
    if "image_latent" in own:
        image = np.moveaxis(own["image_latent"], 2, -1)
        rest = np.zeros((len(x), x.shape[1] - image.shape[1], *image.shape[2:]), np.float32)
        latents = np.concatenate([noisy, np.concatenate([image, rest], axis=1)], axis=-1)
    turns = (own.get("rope_cos"), own.get("rope_sin"))
    table = None
    if not model.config.use_rotary_positional_embeddings:
        table = sine_cosine_table(model.config, model.config.grid(x.shape[1:4]))
    options = {} if model.config.ofs_embed_dim is None else {"ofs": np.full(len(x), 2.0, np.float32)}
    timesteps = own["timesteps"].astype(np.float32)

    def loss(params):
        given = (latents, own["prompt_embeds"], timesteps, Positions(*turns, table))
        losses = velocity_loss(model.apply({"params": params}, *given, **options), x, noise, alpha)
        return losses.mean(), losses

    (value, losses), grads = jax.jit(jax.value_and_grad(loss, has_aux=True))(params)
    np.testing.assert_allclose(losses, own["loss_per_sample"], rtol=1e-5)
    assert value == pytest.approx(float(own["loss"]), rel=1e-5)
    none = tuple(recorded["noise"][case]["zero_grad_keys"])
    require_gradients(grads, own, recorded["gradnorm"][case], "grad:", none)


ROPE = load("x_rope")[1]


@pytest.mark.parametrize("name", [name[:-4] for name in ROPE if re.fullmatch(r"(linspace|slice)\..*\.idx", name)])
def test_rotations_equal_the_recorded_tables(name):
    kind, size = name.split(".")
    rows, columns, frames = map(int, size.split("x"))
    config = TransformerConfig(use_rotary_positional_embeddings=True)
    if kind == "slice":
        config = dataclasses.replace(config, patch_size_t=2, sample_height=300, sample_width=300)
    tables = rotations(config, (frames, rows, columns))
    for table, part in zip(tables, ("cos", "sin")):
        np.testing.assert_allclose(table[ROPE[f"{name}.idx"]], ROPE[f"{name}.{part}"], atol=5e-6)
        np.testing.assert_allclose(table.sum(axis=0, dtype=np.float64), ROPE[f"{name}.colsum_{part}"], atol=1e-2)


@pytest.mark.parametrize("table", ["crop_table", "crop_table_big"])
def test_crops_equal_the_recorded_ones(table):
    for rows, columns, top, left, bottom, right in ROPE[table].tolist():
        assert cropped((rows, columns), (30, 45)) == ((top, bottom), (left, right)), (rows, columns)


@pytest.mark.parametrize("name", [name[:-4] for name in ROPE if re.fullmatch(r"sincos\..*\.idx", name)])
def test_sine_cosine_tables_equal_the_recorded_ones(name):
    rows, columns, frames = map(int, name.split(".")[1].split("x"))
    config = TransformerConfig()
    table = sine_cosine_table(config, (frames, rows, columns))
    assert not table[: config.max_text_seq_length].any()
    video = table[config.max_text_seq_length :]
    np.testing.assert_allclose(video[ROPE[f"{name}.idx"]], ROPE[f"{name}.rows"], atol=1e-6)
    np.testing.assert_allclose(video.sum(axis=0, dtype=np.float64), ROPE[f"{name}.colsum"], atol=1e-2)


def test_sinusoids_equal_the_recorded_ones():
    for name in ROPE:
        if re.fullmatch(r"timestep\.\d+", name):
            found = sinusoid(ROPE["timestep.values"].astype(np.float32), int(name.split(".")[1]))
            np.testing.assert_allclose(found, ROPE[name], atol=2e-4)
    np.testing.assert_allclose(sinusoid(np.full(1, 2.0, np.float32), 512), ROPE["ofs.512"], atol=1e-6)


PUBLISHED = {  # parameters, tensors
    "CogVideoX-2B": (1_693_783_872, 736),
    "CogVideoX-5B": (5_570_283_072, 1024),
    "CogVideoX-5B-I2V": (5_570_479_680 + 54_607_872, 1025),
    "CogVideoX1.5-5B": (5_570_676_352, 1024),
    "CogVideoX1.5-5B-I2V": (5_571_594_880, 1028),
}


@pytest.mark.parametrize("name", RELEASED)
def test_released_sizes_have_the_published_numbers_of_parameters(name):
    config, (parameters, tensors) = RELEASED[name], PUBLISHED[name]
    model = Transformer(config, unrolled=False)
    shapes = nn.unbox(
        jax.eval_shape(
            lambda rng: model.init(rng, *model.empty_inputs(), **model.empty_options())["params"], jax.random.key(0)
        )
    )
    leaves = flatten_dict(shapes, sep="/")
    assert sum(leaf.size for leaf in leaves.values()) == parameters
    stacked = sum(path.startswith("transformer_blocks") for path in leaves)
    assert len(leaves) - stacked + stacked * config.num_layers == tensors


def test_a_stored_table_of_another_size_is_refused_and_of_another_length_replaced():
    config = RELEASED["CogVideoX-5B-I2V"]
    assert takes_stored_table(config, (13, 30, 45)) and not takes_stored_table(config, (7, 30, 45))
    with pytest.raises(UserError, match="480x720"):
        takes_stored_table(config, (13, 30, 44))


def test_a_grid_beyond_what_a_counting_model_knows_is_refused():
    with pytest.raises(UserError, match="larger than the 48 x 85"):
        rotations(RELEASED["CogVideoX1.5-5B"], (2, 49, 85))


def test_latents_that_cannot_be_cut_into_patches_are_refused():
    with pytest.raises(UserError, match="cannot be cut"):
        RELEASED["CogVideoX1.5-5B"].grid((3, 4, 4))


@pytest.mark.parametrize(
    "values", [{"attention_head_dim": 24}, {"ofs_embed_dim": 256}, {"freq_shift": 1}, {"num_layers": 0}]
)
def test_configs_that_no_released_code_runs_are_refused(values):
    with pytest.raises(UserError):
        config_of(values)


LORA = load("x_lora")


@pytest.mark.parametrize("name", [name for name in LORA[1] if name.startswith("out_")])
def test_velocities_with_a_lora_equal_those_of_diffusers(name):
    """`out_base`, or the kind of file and the strength of a user: `out_meta_scale0.7`; fused is the same as merged."""
    recorded, arrays = LORA
    kind, strength = re.fullmatch(r"out_(base|plain|meta)(?:_fused|_scale([\d.]+))?", name).groups()
    given = {key: value for key, value in arrays.items() if key.startswith("param:")}
    if kind != "base":
        shapes = {key.removeprefix("param:"): value.shape for key, value in given.items() if value.ndim == 2}
        lora = read_lora(FOLDER / f"x_lora_{kind}.safetensors", shapes, prefix="transformer.")
        for key in lora.factors:
            scale = lora.scale * float(strength or 1)
            given[f"param:{key}"] = merged(given[f"param:{key}"], lora.change(key), scale=scale)
    model = Transformer(config_of(recorded["config"]))
    params = params_of(model, model.empty_inputs(), given)
    latents = np.moveaxis(arrays["hidden_states"], 2, -1)
    turns = Positions(arrays["rope_cos"], arrays["rope_sin"])
    timestep = arrays["timestep"].astype(np.float32)
    out = jax.jit(model.apply)({"params": params}, latents, arrays["encoder_hidden_states"], timestep, turns)
    np.testing.assert_allclose(np.moveaxis(out, -1, 2), arrays[name], atol=ATOL)
