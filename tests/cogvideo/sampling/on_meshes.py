"""Writes clips on meshes of several devices; run in a process of its own, which has them.

python -m tests.cogvideo.sampling.on_meshes    (what it found comes out as JSON)
"""

import json

import jax
import jax.numpy as jnp
import numpy as np

from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.sampling.decode import DecodeSettings, begin, write_frames, write_slots
from cogvideo_jax.models.cogvideo.sampling.logits import Strategy
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.runtime.collectives import traffic
from cogvideo_jax.runtime.rng import row_keys
from tests.cogvideo.transformer import tiny

CASES = {
    "stage1": (tiny.config(tiny.KEYFRAMES), 3, dict(growing_cache=True)),
    "stage2_windows": (tiny.config(tiny.INTERPOLATION, window=2), 3, dict(parallel_frames=2)),
}
ONE = (1, 1)  # data, tensor
MESHES = {"stage1": ((1, 2), (4, 1), (2, 2)), "stage2_windows": ((2, 2),)}
ROWS = 4


def run(config: TransformerConfig, given: int, how: dict, data: int, tensor: int) -> dict:
    """A guided clip's tokens, what devices send in writing it, and what each holds of a matrix and of the cache."""
    model, params = tiny.random_sampler(config)
    text, mask, frames = (x.repeat(ROWS // 2, axis=0) for x in tiny.random_batch(config))
    text, mask = jnp.concatenate([text, text[::-1]]), jnp.concatenate([mask, mask[::-1]])
    settings = DecodeSettings(Strategy(1.0, 40), 40, guidance=2.0, text_log_weight=0.0, **how)
    fixed, keys, labels = dict(model=model, settings=settings), row_keys(jax.random.key(0), ROWS), jnp.arange(40)
    mesh = meshes.make_mesh(dict(data=data, fsdp=1, tensor=tensor), jax.devices()[: data * tensor])
    with jax.set_mesh(mesh):
        boxed = jax.eval_shape(lambda rng: model.init(rng, *model.empty_inputs())["params"], jax.random.key(0))
        params = jax.device_put(params, meshes.shardings(boxed, mesh))
        clip = write_slots(params, text, mask, frames[:, :given], keys, labels, **fixed)
        cache = begin(params, text, mask, frames[:, :given], **fixed)
        program = write_frames.lower(params, cache, np.int32(given), keys, labels, **fixed).compile()
    kernel, kept = params["layers_0"]["spatial"]["qkv_kernel"], cache.layers[0].temporal.v
    return {
        "tokens": np.asarray(clip).tolist(),
        "sent": {kind: found.bytes for kind, found in traffic(program.as_text()).items()},
        "kernel": kernel.addressable_shards[0].data.nbytes / kernel.nbytes,
        "cache": kept.addressable_shards[0].data.nbytes / kept.nbytes,
        "cache_bytes": sum(leaf.nbytes for leaf in jax.tree.leaves(cache)),
    }


if __name__ == "__main__":
    found = {name: {f"{d}x{t}": run(*case, d, t) for d, t in (ONE, *MESHES[name])} for name, case in CASES.items()}
    print(json.dumps(found))
