"""How fast a stage trains: seconds a step, tokens a second, and the share of the machine's arithmetic ("MFU").

The step is the one that `cogvideo train` takes, with AdamW, on random tokens and a random frozen base.
"""

import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cogvideo_jax.bench.machine import Machine, peak_bytes, profile
from cogvideo_jax.models.cogvideo.bench.sizes import abstract_params, random_like
from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.training.flops import transformer_flops
from cogvideo_jax.models.cogvideo.training.parameters import split_attention_plus
from cogvideo_jax.models.cogvideo.training.transformer_loss import loss_and_metrics
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer
from cogvideo_jax.nn.attention import kernel_for
from cogvideo_jax.nn.remat import Remat
from cogvideo_jax.runtime.memory import Phase, require, tree_bytes, working_bytes
from cogvideo_jax.training.state import Split, TrainState
from cogvideo_jax.training.step import train_step

STEPS = 3


class Trained(NamedTuple):
    """One measured setting.

    Attributes:
      batch: clips a step.
      seconds: a step.
      tokens_a_second: over all clips.
      flops: useful operations of a step, counted from the sizes.
      mfu: share of what this machine's largest matrix product reaches.
      bytes: state, frozen base, and what the step needs beside them, as the compiler plans.
      peak: bytes of device memory at the fullest moment, where the device says; else 0.
    """

    batch: int
    seconds: float
    tokens_a_second: float
    flops: float
    mfu: float
    bytes: int
    peak: int
    compile_seconds: float

    def cells(self) -> dict[str, str]:
        """As text, by column."""
        return {
            "batch": f"{self.batch}",
            "s a step": f"{self.seconds:.3f}",
            "tokens/s": f"{self.tokens_a_second:.0f}",
            "TFLOP/s": f"{self.flops / self.seconds / 1e12:.3f}",
            "MFU": f"{self.mfu:.0%}",
            "GiB": f"{max(self.bytes, self.peak) / 2**30:.2f}",
            "compile s": f"{self.compile_seconds:.1f}",
        }


def measure_train(
    config: TransformerConfig,
    *,
    machine: Machine,
    dtype: str,
    batch: int,
    remat: Remat,
    attention: str,
    trace: str | None = None,
) -> Trained:
    """Compiles the step, takes one, and times STEPS more."""
    kernel = kernel_for(attention, platform=jax.default_backend(), dtype=dtype)
    model = Transformer(config, dtype=dtype, remat=remat, kernel=kernel)
    tx = optax.adamw(1e-4)
    frozen, trained = _split(model, dtype)
    state = jax.eval_shape(functools.partial(TrainState.create, tx=tx), trained)
    example, rng = random_batch(config, batch), jax.random.key(0)
    begun = time.perf_counter()
    loss = functools.partial(loss_and_metrics, model=model)
    step = jax.jit(functools.partial(train_step, loss=loss, tx=tx), donate_argnums=0)
    step = step.lower(state, frozen, example, rng).compile()
    compile_seconds = time.perf_counter() - begun
    size = tree_bytes((state, frozen))
    working = working_bytes(step, size)
    require([Phase("a training step", size, working, advice="use a smaller --batch or --remat everything")])

    state, frozen = random_like(state), random_like(frozen)
    state, _ = jax.block_until_ready(step(state, frozen, example, rng))
    with profile(trace):
        begun = time.perf_counter()
        for _ in range(STEPS):
            state, _ = step(state, frozen, example, rng)
        jax.block_until_ready(state)
        seconds = (time.perf_counter() - begun) / STEPS
    flops = batch * transformer_flops(config, all_trained=False).step
    tokens, mfu = batch * config.layout.length / seconds, flops / seconds / machine.flops
    return Trained(batch, seconds, tokens, flops, mfu, size + working, peak_bytes(), compile_seconds)


def random_batch(config: TransformerConfig, batch: int) -> dict:
    """Tokens without sense."""
    layout = config.layout
    text = jnp.full((batch, layout.text_length), config.image_codes, jnp.int32)
    shape = (batch, layout.frames, layout.frame_tokens)
    frames = jax.random.randint(jax.random.key(1), shape, 0, config.image_codes)
    return {"text": text, "text_mask": text >= 0, "frames": frames}


def _split(model: Transformer, dtype: str) -> Split:
    """Shapes: the base in the compute type, what trains in float32."""
    frozen, trained = split_attention_plus(abstract_params(model, jnp.dtype(dtype)))
    return Split(frozen, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), trained))
