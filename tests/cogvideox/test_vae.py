"""The 3-D autoencoder of CogVideoX against diffusers (x_vae.npz): chunks, caches, slicing, tiles and gradients."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import linen as nn
from flax.traverse_util import flatten_dict

from cogvideo_jax.convert.torch_names import to_torch, torch_name, torch_shape
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideox import vae
from cogvideo_jax.models.cogvideox.tiling import tiled_decode, tiled_encode, tiles
from cogvideo_jax.models.cogvideox.vae import Vae, VaeConfig
from tests.cogvideox.goldens import load, params_of

GOLDEN, ARRAYS = load("x_vae")
EXACT, TILED = 1e-4, 2e-4  # GOLDENS_X.md
GRADIENT = 1e-4  # of the largest entry


@pytest.fixture(scope="module", autouse=True)
def _as_users_run_it(full_optimisation):
    """Goldens hold for programs as users run them."""


@pytest.fixture(scope="module")
def model() -> Vae:
    settings = {key: tuple(value) if isinstance(value, list) else value for key, value in GOLDEN["config"].items()}
    return Vae(VaeConfig(**settings))


@pytest.fixture(scope="module")
def params(model) -> dict:
    side = model.config.spatial_ratio
    return params_of(model, (jnp.zeros((1, 1, side, side, 3)),), ARRAYS)


def golden(name: str) -> np.ndarray:
    """An array of the file with channels last."""
    return np.moveaxis(ARRAYS[name], 1, -1)


def cases(prefix: str, suffix: str) -> list[str]:
    """Names of cases: what stands before the suffix."""
    found = [name.removesuffix(suffix) for name in ARRAYS if name.startswith(prefix) and name.endswith(suffix)]
    assert found, f"no case {prefix}*{suffix}"
    return found


def every_fourth(x) -> np.ndarray:
    return x[:, :, ::4, ::4]


def assert_close(got, expected, *, atol: float = EXACT) -> None:
    np.testing.assert_allclose(got, expected, atol=atol, rtol=0)


def assert_moments(moments, case: str, *, atol: float = EXACT) -> None:
    mean, log_variance = vae.posterior(moments)
    assert_close(mean, golden(f"{case}.mean"), atol=atol)
    assert_close(log_variance, golden(f"{case}.logvar"), atol=atol)


@pytest.mark.parametrize("case", cases("enc", ".x"))
def test_moments_of_every_length(case, model, params):
    assert_moments(vae.encode(model, params, golden(f"{case}.x")), case)


@pytest.mark.parametrize("case", cases("dec", ".frames") + cases("dec", ".frames_sub4"))
def test_pixels_of_every_length(case, model, params):
    pixels = vae.decode(model, params, golden(f"{case}.z"))
    if f"{case}.frames" in ARRAYS:
        assert_close(pixels, golden(f"{case}.frames"))
    else:
        assert_close(every_fourth(pixels), golden(f"{case}.frames_sub4"))


@pytest.mark.parametrize("case", cases("tiledenc", ".x"))
def test_moments_of_tiles(case, model, params):
    assert_moments(tiled_encode(model, params, golden(f"{case}.x")), case, atol=TILED)


@pytest.mark.parametrize("case", cases("tileddec", ".z"))
def test_pixels_of_tiles(case, model, params):
    pixels = tiled_decode(model, params, golden(f"{case}.z"))
    assert_close(pixels[:, [0, 7]], golden(f"{case}.frames_t0_t7"), atol=TILED)
    assert_close(every_fourth(pixels), golden(f"{case}.frames_sub4"), atol=TILED)
