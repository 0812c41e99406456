"""Training objective of velocity prediction.

x_t = sqrt(a) x + sqrt(1-a) e        v = sqrt(a) e - sqrt(1-a) x
loss = |x0(model) - x|^2 / (1-a) = |model - v|^2      at every timestep, the one without signal too
"""

import jax.numpy as jnp

from cogvideo_jax.notation import Array, Float


def _along(alpha: Float[Array, "B"], x: Float[Array, "B *shape"]) -> tuple[Array, Array]:
    """sqrt(a) and sqrt(1-a), shaped for the samples of a batch, in float32.

    Differs from diffusers: it casts a to the samples' type first. In bfloat16 1-a is then 0 at timesteps 0 and 1, and
    sqrt(1-a) 16 % too small at timestep 5.
    """
    alpha = jnp.asarray(alpha, jnp.float32).reshape(-1, *[1] * (x.ndim - 1))
    return jnp.sqrt(alpha), jnp.sqrt(1 - alpha)


def add_noise(
    x: Float[Array, "B *shape"], noise: Float[Array, "B *shape"], alpha: Float[Array, "B"]
) -> Float[Array, "B *shape"]:
    """Samples at timesteps whose a is given."""
    signal, spread = _along(alpha, x)
    return (signal * x + spread * noise).astype(x.dtype)


def velocity(
    x: Float[Array, "B *shape"], noise: Float[Array, "B *shape"], alpha: Float[Array, "B"]
) -> Float[Array, "B *shape"]:
    """What the model is to predict. Of (v, x_t) in place of (x, noise) it is x_0."""
    signal, spread = _along(alpha, x)
    return (signal * noise - spread * x).astype(x.dtype)


def velocity_loss(
    predicted: Float[Array, "B *shape"],
    x: Float[Array, "B *shape"],
    noise: Float[Array, "B *shape"],
    alpha: Float[Array, "B"],
) -> Float[Array, "B"]:
    """Mean squared error of each sample's velocity; finite at every timestep.

    The released code weights the error of x_0 by 1 / (1-a), which is the same number.
    """
    x, noise, predicted = (value.astype(jnp.float32) for value in (x, noise, predicted))
    error = jnp.square(predicted - velocity(x, noise, alpha))
    return error.mean(axis=tuple(range(1, error.ndim)))
