"""Benchmarks of CogVideoX on tiny random weights."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import pytest
from flax import linen as nn

from cogvideo_jax.bench.machine import Machine
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideox.bench import benchmarks, beside_diffusers, diffusion
from cogvideo_jax.models.cogvideox.bench.clip import measure_clip
from cogvideo_jax.models.cogvideox.bench.sizes import MIDDLE, NARROW, SIZES, Size
from cogvideo_jax.models.cogvideox.clip import latents_of
from cogvideo_jax.models.cogvideox.flops import transformer_flops
from cogvideo_jax.models.cogvideox.transformer import Positions, Transformer
from cogvideo_jax.nn.attention import Kernel
from cogvideo_jax.nn.t5 import T5Config

MACHINE = Machine("none", bandwidth=1e9, reads=1e9, flops=1e9)
TINY = Size(
    dataclasses.replace(
        MIDDLE,
        num_attention_heads=2,
        num_layers=1,
        text_embed_dim=32,
        sample_height=12,
        sample_width=10,
        sample_frames=9,
    ),
    dataclasses.replace(NARROW, block_out_channels=(8, 8, 8, 8), norm_num_groups=2, layers_per_block=1),
    T5Config(d_model=32, d_kv=16, d_ff=64, num_layers=1, num_heads=2, vocab_size=100),
)


@pytest.mark.parametrize("what", benchmarks.PARTS)
def test_every_step_is_timed_and_shown(what):
    row = diffusion.measure_step(TINY, machine=MACHINE, dtype="float32", what=what, batch=1)
    assert row.calls == (50 if what == "denoising" else 1) and row.seconds > 0 and row.flops > 0
    assert diffusion.cells(row)["clip"] == "9x96x80"


def test_operations_are_those_that_the_compiler_counts():
    config, latents = TINY.transformer, latents_of(TINY.transformer, 9, (96, 80))
    model = Transformer(config, kernel=Kernel.PLAIN)
    params = nn.unbox(jax.eval_shape(lambda rng: model.init(rng, *model.empty_inputs())["params"], jax.random.key(0)))
    shape = functools.partial(jax.ShapeDtypeStruct, dtype=jnp.float32)
    frames, rows, columns = config.grid(latents.shape)
    turns = shape((frames * rows * columns, config.attention_head_dim))
    text = shape((1, config.max_text_seq_length, config.text_embed_dim))
    arguments = shape((1, *latents.shape, config.in_channels)), text, shape((1,)), Positions(turns, turns)
    counted = jax.jit(model.apply).lower({"params": params}, *arguments).compile().cost_analysis()["flops"]
    assert transformer_flops(config, latents) == pytest.approx(counted, rel=0.1)


def test_the_sizes_of_the_command_are_those_that_can_be_made():
    assert set(benchmarks.SIZES) == set(SIZES)


def test_what_is_measured_beside_diffusers_needs_it(monkeypatch):
    monkeypatch.setattr(beside_diffusers, "LIBRARIES", ("torch", "no_such_library"))
    with pytest.raises(UserError, match=r"no_such_library; install the extra with pip install .*parity"):
        measure_clip(TINY, machine=MACHINE, steps=2, frames=9, pixels=None)
