"""Embeddings of numbers: sinusoids of a timestep, sine-cosine tables, and rotary positions."""

import jax.numpy as jnp
import numpy as np

from cogvideo_jax.notation import Array, Float, Shaped

BASE = 10_000.0  # wavelengths go from 1 to this, times 2 pi


def sinusoid(values: Float[Array, "B"], width: int) -> Float[Array, "B width"]:
    """Cosines, then sines, of each number times `width / 2` frequencies, in float32."""
    frequencies = np.exp(-np.log(BASE) * np.arange(width // 2, dtype=np.float32) / (width // 2)).astype(np.float32)
    angles = values.astype(jnp.float32)[:, None] * frequencies
    return jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)


def sine_cosine(positions: Shaped[np.ndarray, "n"], width: int) -> Float[np.ndarray, "n width"]:
    """Sines, then cosines, of positions, in float64 on the host."""
    angles = np.asarray(positions, np.float64)[:, None] / BASE ** (np.arange(width // 2) / (width / 2))
    return np.concatenate([np.sin(angles), np.cos(angles)], axis=-1)


def rotary_angles(positions: Shaped[np.ndarray, "n"], width: int) -> Float[np.ndarray, "n width"]:
    """Angles by which positions turn neighbouring pairs of features; each stands twice. In float32, on the host."""
    frequencies = (1 / BASE ** (np.arange(0, width, 2) / width)).astype(np.float32)
    return np.repeat(np.asarray(positions, np.float32)[:, None] * frequencies, 2, axis=-1)


def rotate(
    x: Float[Array, "B L A K"], cosines: Float[Array, "L K"], sines: Float[Array, "L K"]
) -> Float[Array, "B L A K"]:
    """Turns pairs of neighbouring features (a, b) to (a cos - b sin, b cos + a sin), in float32."""
    pairs = x.astype(jnp.float32).reshape(*x.shape[:-1], -1, 2)
    turned = jnp.stack([-pairs[..., 1], pairs[..., 0]], axis=-1).reshape(x.shape)
    return (x * cosines[:, None] + turned * sines[:, None]).astype(x.dtype)
