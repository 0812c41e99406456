"""The same steps in diffusers and transformers, where torch is installed, to compare with: float32 on the CPU."""

import dataclasses
import importlib.util
import time
from collections.abc import Callable
from typing import Any

import psutil

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideox.bench.sizes import Size
from cogvideo_jax.models.cogvideox.clip import latents_of

LIBRARIES = ("torch", "diffusers", "transformers")
TRIES = 2  # after a warm-up


def seconds_of_diffusers(
    size: Size, what: str, *, clips: int, frames: int, pixels: tuple[int, int], steps: int
) -> float:
    """Seconds of a step of the chain: of T5 for all texts, of all denoising steps with guidance, or of decoding.

    Raises:
      UserError: the libraries are not installed.
    """
    require_libraries()
    import torch

    torch.set_num_threads(psutil.cpu_count(logical=True))
    latents = latents_of(size.transformer, frames, pixels)
    run, calls = {"text": _text, "denoising": _denoising, "pixels": _pixels}[what](torch, size, clips, latents)
    with torch.no_grad():
        run()
        return _best(run) * (steps if calls is None else calls)


def require_libraries() -> None:
    """Raises UserError if a library to compare with is not installed."""
    missing = [name for name in LIBRARIES if importlib.util.find_spec(name) is None]
    if missing:
        raise UserError(f'this is measured beside {", ".join(missing)}; install the extra with pip install ".[parity]"')


def _best(run: Callable[[], Any]) -> float:
    times = []
    for _ in range(TRIES):
        begun = time.perf_counter()
        run()
        times.append(time.perf_counter() - begun)
    return min(times)


def _text(torch: Any, size: Size, clips: int, latents: Any) -> tuple[Callable[[], Any], int]:
    from transformers import T5Config, T5EncoderModel

    values = dataclasses.asdict(size.text) | {"feed_forward_proj": "gated-gelu"}
    model = T5EncoderModel(T5Config(**values)).eval()
    ids = torch.zeros((1 + clips, size.transformer.max_text_seq_length), dtype=torch.long)
    return lambda: model(ids), 1


def _denoising(torch: Any, size: Size, clips: int, latents: Any) -> tuple[Callable[[], Any], None]:
    from diffusers import CogVideoXTransformer3DModel
    from diffusers.models.embeddings import get_3d_rotary_pos_embed

    config = size.transformer
    model = CogVideoXTransformer3DModel(**dataclasses.asdict(config)).eval()
    turns = None
    if config.use_rotary_positional_embeddings:
        count, rows, columns = config.grid(latents.shape)
        size_ = config.attention_head_dim
        turns = get_3d_rotary_pos_embed(size_, ((0, 0), (rows, columns)), (rows, columns), count)
    shape = 2 * clips, latents.frames, config.in_channels, latents.rows, latents.columns
    text = torch.zeros((2 * clips, config.max_text_seq_length, config.text_embed_dim))
    inputs = dict(hidden_states=torch.zeros(shape), encoder_hidden_states=text, timestep=torch.zeros(2 * clips))
    return lambda: model(**inputs, image_rotary_emb=turns), None


def _pixels(torch: Any, size: Size, clips: int, latents: Any) -> tuple[Callable[[], Any], int]:
    from diffusers import AutoencoderKLCogVideoX

    known = ("block_out_channels", "latent_channels", "layers_per_block", "norm_num_groups")
    model = AutoencoderKLCogVideoX(**{name: getattr(size.vae, name) for name in known}).eval()
    shape = clips, size.vae.latent_channels, latents.frames - latents.dropped, latents.rows, latents.columns
    clip = torch.zeros(shape)
    return lambda: model.decode(clip), 1
