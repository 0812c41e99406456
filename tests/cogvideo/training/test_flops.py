"""Operations counted from the sizes are those of the compiled program."""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp
import pytest

from cogvideo_jax.models.cogvideo import config as presets
from cogvideo_jax.models.cogvideo.superres.config import cogview2_direct
from cogvideo_jax.models.cogvideo.training.flops import superres_flops, transformer_flops
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer


@pytest.mark.parametrize("preset", [presets.demo_base, presets.demo_stage1, presets.demo_stage2])
def test_a_forward_pass_has_as_many_as_the_compiler_counts(preset):
    config = dataclasses.replace(preset(), layers=1)  # the compiler counts the body of a loop once
    model, layout = Transformer(config), config.layout
    text, mask, frames = model.empty_inputs()
    params = nn.meta.unbox(jax.eval_shape(model.init, jax.random.key(0), text, mask, frames))

    def forward(params):
        hidden = model.apply(params, text, jnp.ones_like(mask), frames)
        first = layout.text_length + layout.first_loss_slot * layout.frame_tokens
        return model.apply(params, hidden[:, first:], method=Transformer.image_logits)

    counted = jax.jit(forward).lower(params).compile().cost_analysis()["flops"]
    flops = transformer_flops(config, all_trained=False)
    assert flops.frozen + flops.trained < counted < 1.15 * (flops.forward + flops.attention)


def test_what_is_frozen_needs_no_gradient_of_its_matrices():
    config = presets.cogvideo_stage1()
    frozen, all_trained = (transformer_flops(config, all_trained=trained) for trained in (False, True))
    assert frozen.forward == all_trained.forward and frozen.step < all_trained.step
    per_token = frozen.forward / config.layout.length
    assert 2 * 7.0e9 < per_token < 2 * 8.0e9  # about two a parameter


def test_super_resolution_is_counted():
    flops = superres_flops(cogview2_direct(), all_trained=False)
    assert flops.trained > 0 and 2 * 5.5e9 < flops.forward / 4096 < 2 * 8.5e9
