"""One training step of the image tokenizer: networks by gradient, the code book by moving averages."""

import functools
from collections.abc import Sequence
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import optax
from jax.sharding import Mesh

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.vq import codebook as codes
from cogvideo_jax.models.cogvideo.vq.codebook import Codebook
from cogvideo_jax.models.cogvideo.vq.config import VQConfig
from cogvideo_jax.models.cogvideo.vq.networks import VQNetworks, init_networks, normalise, to_unit_range
from cogvideo_jax.notation import Array, Float, PyTree, UInt8
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.training.state import beside_parameters
from cogvideo_jax.training.step import norms


@flax.struct.dataclass
class VQState:
    """Everything a tokenizer run needs to continue.

    Attributes:
      step: updates done.
      params: parameters of VQNetworks.
      opt_state: state of the optimizer.
      codebook: codes with their running counts and sums.
    """

    step: Array
    params: PyTree
    opt_state: PyTree
    codebook: Codebook

    def tokenizer_params(self) -> dict:
        """The tree that VQTokenizer and the converter use."""
        return {"networks": self.params, "codebook": self.codebook}


class _Weighted(NamedTuple):
    """Frames as the networks see them, and how much each pixel counts."""

    target: Float[Array, "B H W 3"]
    foreground: Float[Array, "B H W 1"]
    weights: Float[Array, "B H W 1"]


class _Forward(NamedTuple):
    """What the step needs beside the loss."""

    reconstruction: Array
    commitment: Array
    images: Float[Array, "R B H W 3"]
    latents: Float[Array, "M E"]
    ids: Array
    squared_distance: Array


def init_vq_state(
    config: VQConfig, rng: Array, frames: UInt8[Array, "B H W 3"], tx: optax.GradientTransformation
) -> VQState:
    """Fresh networks, and a code book that starts on the latents of the given frames."""
    network_rng, code_rng = jax.random.split(rng)
    params = init_networks(config, network_rng)
    images = normalise(frames, config)
    latents = [_encode(config, params, images, rate).reshape(-1, config.code_width) for rate in config.rates]
    codebook = codes.init_from_latents(jnp.concatenate(latents), code_rng, size=config.codebook_size)
    return VQState(jnp.zeros((), jnp.int32), params, tx.init(params), codebook)


def vq_state_shardings(state: VQState, params: PyTree, mesh: Mesh) -> VQState:
    """Where every leaf lies: moments beside their parameters, the code book by its rows."""
    rows = lambda leaf: meshes.named(mesh, "codebook", *[None] * (leaf.ndim - 1))  # noqa: E731
    everywhere = meshes.replicated(mesh)
    moments = beside_parameters(state.opt_state, params, everywhere)
    return VQState(everywhere, params, moments, jax.tree.map(rows, state.codebook))


def foreground_mask(frames: UInt8[Array, "B H W 3"], background: tuple[int, int, int]) -> Float[Array, "B H W 1"]:
    """1 where a pixel differs from the background colour."""
    differs = (frames != jnp.asarray(background, jnp.uint8)).any(axis=-1, keepdims=True)
    return differs.astype(jnp.float32)


def shrink(frames: UInt8[Array, "B H W 3"], scale: int) -> UInt8[Array, "B h w 3"]:
    """Each pixel is the rounded mean of those that it covers, `scale` x `scale` of them."""
    batch, height, width, channels = frames.shape
    blocks = frames.reshape(batch, height // scale, scale, width // scale, scale, channels)
    return jnp.rint(blocks.mean((2, 4), dtype=jnp.float32)).astype(jnp.uint8)


def check_scales(scales: Sequence[int], batch: int, size: tuple[int, int], *, window: int) -> None:
    """Raises UserError unless scales divide the frames, their number the batch, and several have a window."""
    height, width = size
    if len(scales) > 1 and not window:
        raise UserError("frames of several scales can be learned together in windows only: set vq.window")
    if batch % len(scales) or any(height % scale or width % scale for scale in scales):
        raise UserError(
            f"vq.scales={tuple(scales)} must divide frames of {height} x {width} pixels, and {len(scales)} scales "
            f"a batch of {batch}: change vq.scales, data.size or batch_size"
        )


def scaled(frames: UInt8[Array, "B H W 3"], scales: Sequence[int], *, window: int) -> list[UInt8[Array, "b h w 3"]]:
    """As many equal parts of a batch as there are scales, each made smaller by its own. Raises as `check_scales`."""
    batch, height, width, _ = frames.shape
    check_scales(scales, batch, (height, width), window=window)
    return [shrink(part, scale) for part, scale in zip(jnp.split(frames, len(scales)), scales)]


def foreground_windows(
    frames: UInt8[Array, "B H W 3"], rng: Array, *, side: int, grid: int, background: tuple[int, int, int]
) -> UInt8[Array, "B side side 3"]:
    """A square window of each frame around what is not background, its corner a random multiple of `grid`.

    The window holds the whole foreground wherever it fits. A small object on an empty ground is learned in
    fewer pixels this way; a local encoder gives a window the ids that it gives the frame.
    """
    foreground = foreground_mask(frames, background)[..., 0] > 0
    row_rng, column_rng = jax.random.split(rng)
    rows = _window_starts(foreground.any(axis=2), row_rng, side // grid, grid)
    columns = _window_starts(foreground.any(axis=1), column_rng, side // grid, grid)
    cut = jax.vmap(lambda frame, y, x: jax.lax.dynamic_slice(frame, (y, x, 0), (side, side, 3)))
    return cut(frames, rows, columns)


def _window_starts(occupied: Array, rng: Array, cells: int, grid: int) -> Array:
    """First pixel of `cells` grid cells that cover the occupied pixels of each line [B, pixels]."""
    occupied = occupied.reshape(occupied.shape[0], -1, grid).any(axis=-1)
    count = occupied.shape[1]
    lowest = jnp.maximum(count - jnp.argmax(occupied[:, ::-1], axis=1) - cells, 0)
    highest = jnp.minimum(jnp.argmax(occupied, axis=1), count - cells)
    low, high = jnp.minimum(lowest, highest), jnp.maximum(lowest, highest)
    return grid * jax.random.randint(rng, low.shape, low, high + 1)


def _learned(
    frames: UInt8[Array, "B H W 3"], rng: Array, *, scales: Sequence[int], window: int, **windows
) -> UInt8[Array, "B h w 3"]:
    """What a step learns of a batch: every part at its scale, whole or in windows."""
    parts = scaled(frames, scales, window=window)
    if window:
        cut = functools.partial(foreground_windows, side=window, **windows)
        parts = map(cut, parts, jax.random.split(rng, len(scales)))
    return jnp.concatenate(list(parts))


def peak_signal_to_noise(
    images: Float[Array, "*R B H W 3"], target: Float[Array, "B H W 3"], weights: Float[Array, "B H W 1"]
) -> Float[Array, ""]:
    """PSNR in decibels over the weighted pixels of images in 0..1, clipped first."""
    squared = jnp.square(images.clip(0.0, 1.0) - target)
    weights = jnp.broadcast_to(weights, squared.shape)
    return -10.0 * jnp.log10((squared * weights).sum() / jnp.maximum(weights.sum(), 1.0) + 1e-10)


def vq_train_step(
    state: VQState,
    frames: UInt8[Array, "B H W 3"],
    rng: Array,
    *,
    config: VQConfig,
    tx: optax.GradientTransformation,
    commitment: float,
    ema_decay: float,
    restart_below: float,
    foreground_weight: float,
    background: tuple[int, int, int],
    window: int = 0,
    scales: Sequence[int] = (1,),
) -> tuple[VQState, dict[str, Array]]:
    """One update on uint8 frames; the caller jits it, with the state donated.

    Args:
      commitment: weight of the distance between a latent and its code.
      ema_decay: decay of the code book's moving averages.
      restart_below: codes with a smaller running count are restarted; 0 restarts none.
      foreground_weight: weight of pixels that differ from `background`; the others weigh 1.
      window: learn in windows of this many pixels a side around the foreground; 0 takes whole frames.
      scales: the batch is cut into as many parts, and the frames of each are made smaller by that factor, so that one
        code book serves pictures before and after super-resolution. More than one needs a window.

    Returns:
      The new state and the scalars loss, reconstruction, commitment, psnr, psnr_foreground (decibels),
      perplexity (of the ids of this batch), restarted (codes), gradient_norm, update_norm.
    """
    restart_rng, window_rng = jax.random.split(rng)
    frames = _learned(frames, window_rng, scales=scales, window=window, grid=config.rates[-1], background=background)
    batch = _weighted(frames, config, foreground_weight=foreground_weight, background=background)

    def loss_of(params):
        forward = _forward(config, params, state.codebook, batch)
        return forward.reconstruction + commitment * forward.commitment, forward

    (loss, forward), gradients = jax.value_and_grad(loss_of, has_aux=True)(state.params)
    updates, opt_state = tx.update(gradients, state.opt_state, state.params)
    params = optax.apply_updates(state.params, updates)
    codebook, counts = codes.ema_update(state.codebook, forward.latents, forward.ids, decay=ema_decay)
    far = forward.squared_distance
    codebook, restarted = codes.restart_dead_codes(codebook, forward.latents, far, restart_rng, below=restart_below)
    state = VQState(state.step + 1, params, opt_state, codebook)
    used = counts / counts.sum()
    perplexity = jnp.exp(-jax.scipy.special.xlogy(used, used).sum())
    scalars = _scalars(loss, forward, batch, config) | {"perplexity": perplexity, "restarted": restarted}
    return state, scalars | norms(gradients, updates)


def vq_evaluate(
    params: PyTree,
    codebook: Codebook,
    frames: UInt8[Array, "B H W 3"],
    *,
    config: VQConfig,
    commitment: float,
    foreground_weight: float,
    background: tuple[int, int, int],
    window: int = 0,
    scales: Sequence[int] = (1,),
) -> dict[str, Array]:
    """Scalars of `vq_train_step` without an update, in windows that are always the same."""
    cut = dict(scales=scales, window=window, grid=config.rates[-1], background=background)
    frames = _learned(frames, jax.random.key(0), **cut)
    batch = _weighted(frames, config, foreground_weight=foreground_weight, background=background)
    forward = _forward(config, params, codebook, batch)
    return _scalars(forward.reconstruction + commitment * forward.commitment, forward, batch, config)


def _weighted(
    frames: UInt8[Array, "B H W 3"], config: VQConfig, *, foreground_weight: float, background: tuple[int, int, int]
) -> _Weighted:
    foreground = foreground_mask(frames, background)
    return _Weighted(normalise(frames, config), foreground, 1.0 + (foreground_weight - 1.0) * foreground)


def _scalars(loss: Array, forward: _Forward, batch: _Weighted, config: VQConfig) -> dict[str, Array]:
    unit, unit_target = to_unit_range(forward.images, config), to_unit_range(batch.target, config)
    return {
        "loss": loss,
        "reconstruction": forward.reconstruction,
        "commitment": forward.commitment,
        "psnr": peak_signal_to_noise(unit, unit_target, jnp.ones_like(batch.foreground)),
        "psnr_foreground": peak_signal_to_noise(unit, unit_target, batch.foreground),
    }


def _encode(config: VQConfig, params: PyTree, images: Array, rate: int) -> Float[Array, "B h w E"]:
    return VQNetworks(config).apply({"params": params}, images, rate=rate, method="encode")


def _forward(config: VQConfig, params: PyTree, codebook: Codebook, batch: _Weighted) -> _Forward:
    """All rates through the shared code book; losses are means over the rates."""
    images, latents, found = [], [], []
    for rate in config.rates:
        latent = _encode(config, params, batch.target, rate)
        nearest = codes.nearest(jax.lax.stop_gradient(latent), codebook.vectors)
        quantised = codes.straight_through(latent, codes.look_up(nearest.ids, codebook.vectors))
        images.append(VQNetworks(config).apply({"params": params}, quantised, rate=rate, method="decode"))
        latents.append(latent.reshape(-1, config.code_width))
        found.append(codes.Nearest(nearest.ids.reshape(-1), nearest.squared_distance.reshape(-1)))
    latents, images = jnp.concatenate(latents), jnp.stack(images)
    ids = jnp.concatenate([one.ids for one in found])
    distance = jnp.concatenate([one.squared_distance for one in found])
    reconstruction = (batch.weights * jnp.square(images - batch.target)).mean()
    commitment = jnp.square(latents - codes.look_up(ids, codebook.vectors)).mean()
    return _Forward(reconstruction, commitment, images, jax.lax.stop_gradient(latents), ids, distance)
