"""Denoises on meshes of several devices; run in a process of its own, which has them.

python -m tests.cogvideox.on_meshes    (what it found comes out as JSON)
"""

import json
import math

import jax
import jax.numpy as jnp
import numpy as np

from cogvideo_jax.diffusion.samplers import SAMPLERS, on_device
from cogvideo_jax.diffusion.schedules import Schedule
from cogvideo_jax.models.cogvideox.denoise import Asked, State, denoise
from cogvideo_jax.models.cogvideox.transformer import Transformer
from cogvideo_jax.models.cogvideox.vae import Vae, decode
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.runtime.collectives import traffic
from tests.cogvideox.goldens import load, params_of
from tests.cogvideox.test_pipelines import vae_config
from tests.cogvideox.test_transformer import config_of, positions_of

MESHES = {
    "one": dict(data=1, fsdp=1, tensor=1, sequence=1),
    "sequence": dict(data=1, fsdp=1, tensor=1, sequence=4),  # more than there are heads
    "all": dict(data=2, fsdp=1, tensor=2, sequence=2),
    "fsdp": dict(data=1, fsdp=2, tensor=1, sequence=2),
}


def run(axes: dict[str, int]) -> dict:
    """Latents after two guided steps, what devices send, and the share of a matrix that each holds."""
    config, arrays = load("x_pipeline_t2v")
    model = Transformer(config_of(config["transformer"]))
    params = params_of(model, model.empty_inputs(), arrays, prefix="param:transformer.")
    table = SAMPLERS["ddim"](Schedule(), 5)
    latents = jnp.moveaxis(jnp.asarray(arrays["ddim.latents0"]), 2, -1)
    mesh = meshes.make_mesh(axes, jax.devices()[: math.prod(axes.values())])
    with jax.set_mesh(mesh):
        boxed = jax.eval_shape(lambda rng: model.init(rng, *model.empty_inputs())["params"], jax.random.key(0))
        params = jax.device_put(params, meshes.shardings(boxed, mesh))
        asked = Asked(jnp.asarray(arrays["embeds"]), None, None, positions_of(model.config, latents.shape[1:4]))
        arguments = asked, on_device(table), jnp.full(5, 6.0), None, np.int32(0), np.int32(1)
        state, how = State(latents, jnp.zeros_like(latents)), dict(model=model, rows=2, draw=None)
        program = denoise.lower(params, state, *arguments, **how).compile()
        out = denoise(params, state, *arguments, **how).latents
        vae = Vae(vae_config(config["vae"]))
        vae_params = params_of(vae, (jnp.zeros((1, 1, 32, 32, 3)),), arrays, prefix="param:vae.")
        scaled = jnp.moveaxis(jnp.asarray(arrays["ddim.latents"][-1]), 2, -1) / vae.config.scaling_factor
        pixels = decode(vae, vae_params, scaled)
    kernel = params["transformer_blocks_0"]["ff"]["net_2"]["kernel"]
    return {
        "latents": np.asarray(out).tolist(),
        "pixels": np.clip(np.asarray(pixels) / 2 + 0.5, 0, 1)[:, :, ::4, ::4].tolist(),
        "sent": {kind: found.bytes for kind, found in traffic(program.as_text()).items()},
        "kernel": kernel.addressable_shards[0].data.nbytes / kernel.nbytes,
    }


if __name__ == "__main__":
    print(json.dumps({name: run(axes) for name, axes in MESHES.items()}))
