"""Sizes: the released models' parameter counts, and what does not fit together."""

import dataclasses
import json
import math

import flax.linen as nn
import pytest
from flax.traverse_util import flatten_dict

from cogvideo_jax.models.cogvideo import config as presets
from cogvideo_jax.models.cogvideo.training.parameters import abstract_params
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer, is_attention_plus
from tests.cogvideo.transformer import tiny


def counts(config) -> tuple[int, int]:
    """All parameters, and those that CogVideo adds."""
    shapes = flatten_dict(nn.meta.unbox(abstract_params(Transformer(config))))
    sizes = {path: math.prod(leaf.shape) for path, leaf in shapes.items()}
    return sum(sizes.values()), sum(size for path, size in sizes.items() if is_attention_plus(path))


def test_the_base_has_the_parameters_of_cogview2():
    assert counts(presets.cogview2()) == (5_902_307_328, 0)


@pytest.mark.parametrize("preset", [presets.cogvideo_stage1, presets.cogvideo_stage2])
def test_a_stage_has_the_parameters_of_the_release(preset):
    assert counts(preset()) == (7_721_127_936, 1_818_820_608)


@pytest.mark.parametrize("preset", [presets.cogview2, presets.cogvideo_stage2, presets.demo_stage1])
def test_a_configuration_survives_json(preset):
    values = json.loads(json.dumps(dataclasses.asdict(preset())))
    assert presets.from_dict(values) == preset()


def test_an_unknown_key_is_an_error():
    values = dataclasses.asdict(presets.demo_base()) | {"depth": 3}
    with pytest.raises(ValueError, match="depth"):
        presets.from_dict(values)


@pytest.mark.parametrize(
    "changes",
    [dict(heads=3), dict(window=3), dict(boi=60), dict(base_positions=10), dict(extra_positions=16)],
)
def test_sizes_that_do_not_fit_are_refused(changes):
    with pytest.raises(ValueError):
        tiny.config(tiny.KEYFRAMES, **changes)
