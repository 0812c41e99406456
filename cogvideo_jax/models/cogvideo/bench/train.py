"""Speed of training a stage: seconds per step, tokens per second, and the share of the machine's arithmetic ("MFU").

The step is that of `cogvideo train`, with AdamW, on random tokens and a random frozen base.
"""

import functools
import time
from typing import NamedTuple

import jax
import jax.numpy as jnp
import optax

from cogvideo_jax.bench.machine import Machine, peak_bytes, profile
from cogvideo_jax.models.cogvideo.bench.sizes import abstract_params, random_like
from cogvideo_jax.models.cogvideo.bench.train_parts import Parts, measure_parts
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
    """Result for one setting.

    Attributes:
      batch: clips per step.
      seconds: seconds per step.
      tokens_a_second: tokens per second over all clips.
      flops: useful operations of a step, counted from the sizes.
      mfu: reached share of the machine's matrix rate.
      bytes: memory for the state, the frozen base and the step, as planned by the compiler.
      peak: peak device memory in bytes; 0 if the device does not report it.
      parts: where the time goes.
    """

    batch: int
    seconds: float
    tokens_a_second: float
    flops: float
    mfu: float
    bytes: int
    peak: int
    compile_seconds: float
    parts: Parts


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
    """Compiles the step, runs it once, and times STEPS more."""
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
    peak, parts = peak_bytes(), measure_parts(model, state, tx, batch=batch)
    flops = batch * transformer_flops(config, all_trained=False).step
    tokens, mfu = batch * config.layout.length / seconds, flops / seconds / machine.flops
    return Trained(batch, seconds, tokens, flops, mfu, size + working, peak, compile_seconds, parts)


def random_batch(config: TransformerConfig, batch: int) -> dict:
    """Batch of placeholder tokens."""
    layout = config.layout
    text = jnp.full((batch, layout.text_length), config.image_codes, jnp.int32)
    shape = (batch, layout.frames, layout.frame_tokens)
    frames = jax.random.randint(jax.random.key(1), shape, 0, config.image_codes)
    return {"text": text, "text_mask": text >= 0, "frames": frames}


def _split(model: Transformer, dtype: str) -> Split:
    """Shapes of the base in the compute type and of trained parameters in float32."""
    frozen, trained = split_attention_plus(abstract_params(model, jnp.dtype(dtype)))
    return Split(frozen, jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, jnp.float32), trained))


def cells(row: Trained) -> dict[str, str]:
    """Values as text, by column."""
    parts = {name: f"{seconds / row.seconds:.0%}" for name, seconds in row.parts._asdict().items()}
    return {
        "batch": f"{row.batch}",
        "s a step": f"{row.seconds:.3f}",
        "tokens/s": f"{row.tokens_a_second:.0f}",
        "TFLOP/s": f"{row.flops / row.seconds / 1e12:.3f}",
        "MFU": f"{row.mfu:.0%}",
        "GiB": f"{max(row.bytes, row.peak) / 2**30:.2f}",
        "compile s": f"{row.compile_seconds:.1f}",
        **parts,
        "rest": f"{1 - sum(row.parts) / row.seconds:.0%}",
    }
