"""Schedules, samplers and guidance against the recorded runs of diffusers."""

import re

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.diffusion import objective
from cogvideo_jax.diffusion.guidance import dynamic_scales
from cogvideo_jax.diffusion.samplers import SAMPLERS, next_sample, on_device
from cogvideo_jax.diffusion.schedules import Schedule, step_warnings, trailing_timesteps
from tests.cogvideox.goldens import load

GOLDENS = {"ddim": load("x_ddim"), "dpm": load("x_dpm")}
RUNS = [
    (sampler, *map(int, found.groups()))
    for sampler, (_, arrays) in GOLDENS.items()
    for name in arrays
    if (found := re.fullmatch(r"s(\d+)\.n(\d+)\.x_T", name))
]


def names(pattern: str) -> list[str]:
    return [name for name in GOLDENS["ddim"][1] if re.fullmatch(pattern, name)]


@pytest.mark.parametrize("name", names(r"s\d+\.alphas_cumprod"))
def test_schedules_equal_the_recorded_float64_tables(name):
    arrays, shift = GOLDENS["ddim"][1], name.split(".")[0]
    schedule = Schedule(snr_shift=float(shift[1:]))
    np.testing.assert_allclose(schedule.alphas_cumprod, arrays[name], atol=1e-12)
    np.testing.assert_allclose(schedule.betas, arrays[f"{shift}.betas"], atol=1e-12)
    assert schedule.alphas_cumprod[-1] == 0


@pytest.mark.parametrize("name", names(r"timesteps\.n\d+"))
def test_timesteps_trail_from_the_last(name):
    np.testing.assert_array_equal(trailing_timesteps(Schedule(), int(name.split("n")[-1])), GOLDENS["ddim"][1][name])


def test_numbers_of_steps_that_do_not_divide_the_schedule_are_warned_of():
    arrays = GOLDENS["ddim"][1]
    extra, noisy = set(arrays["n_with_extra_step"].tolist()), set(arrays["n_not_ending_at_x0"].tolist())
    for steps in range(1, 1001):
        warned = step_warnings(Schedule(), steps)
        assert bool(warned) == (steps in extra or steps in noisy), steps
        assert not warned or ("useless" in warned[0]) == (steps in extra), steps


def run(sampler: str, shift: int, steps: int, *, dtype) -> tuple[list, list]:
    """Samples and clean samples after every step."""
    arrays, start = GOLDENS[sampler][1], f"s{shift}.n{steps}"
    table = SAMPLERS[sampler](Schedule(snr_shift=float(shift)), steps)
    outputs, x = arrays[f"{start}.model_outputs"], arrays[f"{start}.x_T"].astype(dtype)
    np.testing.assert_array_equal(table.timestep, arrays[f"{start}.timesteps"])
    noises = arrays.get(f"{start}.noise", np.zeros((len(outputs), 2, *x.shape), np.float32))
    rows = on_device(table) if dtype == np.float32 else table
    before, samples, cleans = np.zeros_like(x), [], []
    for number, output in enumerate(outputs):
        row = jax.tree.map(lambda column, number=number: column[number], rows)
        once = number == 0 or (table.previous[number] == 0 and table.noise[number] == 0)
        noise = noises[number, 0 if once else 1]
        x, before = next_sample(row, x, output.astype(dtype), before=before, noise=noise.astype(dtype))
        samples.append(x)
        cleans.append(before)
    return samples, cleans


@pytest.mark.parametrize(("sampler", "shift", "steps"), RUNS)
def test_samplers_follow_the_recorded_runs(sampler, shift, steps):
    arrays, start = GOLDENS[sampler][1], f"s{shift}.n{steps}"
    samples, cleans = run(sampler, shift, steps, dtype=np.float32)
    for place, number in enumerate(arrays[f"{start}.steps_kept"]):
        np.testing.assert_allclose(samples[number], arrays[f"{start}.x"][place], atol=1e-5)
        np.testing.assert_allclose(cleans[number], arrays[f"{start}.x0"][place], atol=1e-5)


@pytest.mark.parametrize(("sampler", "shift", "steps"), RUNS)
def test_tables_are_exact_in_float64(sampler, shift, steps):
    samples, _ = run(sampler, shift, steps, dtype=np.float64)
    expected = GOLDENS[sampler][1][f"s{shift}.n{steps}.x_final_float64"]
    np.testing.assert_allclose(samples[-1], expected, atol=1e-12)


@pytest.mark.parametrize("sampler", SAMPLERS)
def test_every_number_of_steps_gives_finite_tables(sampler):
    for steps in range(1, 1001):
        assert all(np.isfinite(column).all() for column in SAMPLERS[sampler](Schedule(), steps)), steps


def test_dynamic_scales_equal_the_recorded_ones():
    arrays = GOLDENS["ddim"][1]
    for name in names(r"dyncfg\..*"):
        scale, steps = re.fullmatch(r"dyncfg\.g(.+)\.n(\d+)", name).groups()
        timesteps = trailing_timesteps(Schedule(), int(steps))
        np.testing.assert_allclose(dynamic_scales(float(scale), timesteps, steps=int(steps)), arrays[name], atol=1e-6)


def test_dynamic_scales_of_a_start_video_count_the_steps_that_are_left():
    arrays = GOLDENS["ddim"][1]
    for name in names(r"dyncfg_v2v\..*strength[\d.]*\d"):
        scale = float(re.fullmatch(r"dyncfg_v2v\.g(.+)\.n\d+\.strength.*", name)[1])
        timesteps = arrays[f"{name}.timesteps"]
        found = dynamic_scales(scale, timesteps, steps=len(timesteps))
        np.testing.assert_allclose(found, arrays[name], atol=1e-6)


def test_noised_samples_and_velocities_equal_the_recorded_ones():
    arrays = GOLDENS["ddim"][1]
    x, noise, timesteps = (arrays[f"q.{name}"] for name in ("x0", "noise", "timesteps"))
    (shift,) = {s for s in (1.0, 3.0) if np.allclose(_noised(x, noise, timesteps, s), arrays["q.add_noise"], atol=1e-5)}
    alpha = Schedule(snr_shift=shift).alphas_cumprod[timesteps]
    noisy, v = objective.add_noise(x, noise, alpha), objective.velocity(x, noise, alpha)
    np.testing.assert_allclose(v, arrays["q.velocity"], atol=1e-5)
    np.testing.assert_allclose(objective.velocity(noise, noisy, alpha), arrays["q.x0_from_v"], atol=1e-5)
    np.testing.assert_allclose(objective.velocity(v, noisy, alpha), x, atol=1e-5)


def _noised(x, noise, timesteps, shift: float):
    return objective.add_noise(x, noise, Schedule(snr_shift=shift).alphas_cumprod[timesteps])


def test_bfloat16_samples_are_noised_in_float32():
    x, noise = jnp.ones((2, 3), jnp.bfloat16), jnp.ones((2, 3), jnp.bfloat16)
    alpha = Schedule().alphas_cumprod[[0, 5]]
    exact = objective.add_noise(x.astype(jnp.float32), noise.astype(jnp.float32), alpha)
    np.testing.assert_allclose(objective.add_noise(x, noise, alpha).astype(jnp.float32), exact, rtol=4e-3)


def test_the_loss_is_that_of_the_clean_sample_weighted():
    rng = np.random.default_rng(0)
    x, noise, predicted = (rng.standard_normal((3, 4, 5)).astype(np.float32) for _ in range(3))
    alpha = Schedule().alphas_cumprod[[0, 500, 999]]
    clean = objective.velocity(predicted, objective.add_noise(x, noise, alpha), alpha)
    weighted = np.square(clean - x).mean(axis=(1, 2)) / (1 - alpha)
    np.testing.assert_allclose(objective.velocity_loss(predicted, x, noise, alpha), weighted, rtol=2e-4)
