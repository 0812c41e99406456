"""The two models: parameters of the release, and which token sees which."""

import dataclasses
import json
import math

import flax.linen as nn
import jax
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cogvideo_jax.models.cogvideo import config as base_presets
from cogvideo_jax.models.cogvideo.superres import config as presets
from cogvideo_jax.models.cogvideo.superres.models import DirectSuperResolution, IterativeSuperResolution
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer, is_attention_plus
from tests.cogvideo.superres import tiny


def shapes(model) -> dict:
    tree = jax.eval_shape(model.init, jax.random.key(0), *model.empty_inputs())["params"]
    return {path: leaf.shape for path, leaf in flatten_dict(nn.meta.unbox(tree)).items()}


@pytest.mark.parametrize(
    "model, parameters, added",
    [
        (DirectSuperResolution(presets.cogview2_direct()), 7_725_895_680, 1_823_588_352),
        (IterativeSuperResolution(presets.cogview2_iterative()), 5_913_366_528, 3600 * 3072),
    ],
)
def test_a_model_has_the_parameters_of_the_release(model, parameters, added):
    sizes = {path: math.prod(shape) for path, shape in shapes(model).items()}
    assert sum(sizes.values()) == parameters
    assert sum(size for path, size in sizes.items() if is_attention_plus(path)) == added


@pytest.mark.parametrize(
    "model, base",
    [
        (DirectSuperResolution(presets.cogview2_direct()), base_presets.cogview2()),
        (DirectSuperResolution(presets.demo_direct()), base_presets.demo_base()),
        (IterativeSuperResolution(presets.demo_iterative()), base_presets.demo_base()),
    ],
)
def test_inherited_parameters_have_the_paths_and_shapes_of_the_base(model, base):
    inherited = {path: shape for path, shape in shapes(model).items() if not is_attention_plus(path)}
    assert inherited == shapes(Transformer(base))


@pytest.mark.parametrize("preset", [presets.cogview2_direct, presets.cogview2_iterative, presets.demo_direct])
def test_a_configuration_survives_json(preset):
    values = json.loads(json.dumps(dataclasses.asdict(preset())))
    assert presets.from_dict(values) == preset()


@pytest.mark.parametrize(
    "changes",
    [
        dict(heads=3),
        dict(boi=60),
        dict(fine_grid=7),
        dict(fine_kernel=(4, 3)),
        dict(base_positions=11),
        dict(coarse=presets.CoarseGrid(grid=2, first_position=4, kernel=(3, 3))),
    ],
)
def test_sizes_that_do_not_fit_are_refused(changes):
    with pytest.raises(ValueError):
        tiny.config(**changes)


def test_an_unknown_key_is_an_error():
    with pytest.raises(ValueError, match="depth"):
        presets.from_dict(dataclasses.asdict(presets.demo_direct()) | {"depth": 3})


def test_a_model_refuses_the_configuration_of_the_other():
    for model in (DirectSuperResolution(tiny.config(None)), IterativeSuperResolution(tiny.config())):
        with pytest.raises(ValueError, match="coarse"):
            model.init(jax.random.key(0), *(DirectSuperResolution(tiny.config()).empty_inputs()))


def changed(config, before, after):
    """Fine positions whose hidden state differs between two inputs, row 1 (no pads), as the grid."""
    model, params = tiny.random_model(config)
    run = jax.jit(lambda inputs: model.apply({"params": params}, *inputs))
    differs = np.abs(np.asarray(run(before) - run(after)))[1].max(-1) > 1e-6
    return differs[: -config.fine_tokens], differs[-config.fine_tokens :].reshape(config.fine_grid, -1).astype(int)


def test_a_fine_token_of_the_direct_model_sees_its_neighbours_and_its_coarse_cells_only():
    config = tiny.config(layers=1)
    text, mask, coarse, fine = tiny.random_batch(config)
    other = fine.at[1, 13].set((fine[1, 13] + 1) % config.image_codes)  # input of position 14: row 2, column 2
    given, seen = changed(config, (text, mask, coarse, fine), (text, mask, coarse, other))
    assert not given.any()
    expected = np.zeros((6, 6), int)
    expected[0:5, 1:4] = 1
    np.testing.assert_array_equal(seen, expected)
    small = dataclasses.replace(config, coarse=dataclasses.replace(tiny.COARSE, kernel=(1, 1)))
    other = coarse.at[1, 3].set((coarse[1, 3] + 1) % config.image_codes)
    given, seen = changed(small, (text, mask, coarse, fine), (text, mask, other, fine))
    np.testing.assert_array_equal(given, [False] * 5 + [True] * 4)  # coarse tokens see each other, text sees none
    np.testing.assert_array_equal(seen, np.kron([[0, 0], [0, 1]], np.ones((3, 3), int)))


def test_a_fine_token_of_the_iterative_model_sees_its_neighbours_and_the_text():
    config = tiny.config(None, layers=1)
    text, mask, _, fine = tiny.random_batch(config)
    other = fine.at[1, 0].set((fine[1, 0] + 1) % config.image_codes)
    given, seen = changed(config, (text, mask, fine), (text, mask, other))
    assert not given.any()
    expected = np.zeros((6, 6), int)
    expected[0:3, 0:2] = 1
    np.testing.assert_array_equal(seen, expected)
    given, seen = changed(config, (text, mask, fine), (text.at[1, 0].set(50), mask, fine))
    assert given.all() and seen.all()


@pytest.mark.parametrize("coarse", [tiny.COARSE, None])
def test_pads_do_not_matter(coarse):
    config = tiny.config(coarse)
    model, params = tiny.random_model(config)
    text, mask, small, fine = tiny.random_batch(config)
    rest = (small, fine) if coarse else (fine,)
    run = jax.jit(model.apply)
    hidden = [run({"params": params}, ids, mask, *rest) for ids in (text, text.at[0, :2].set(41))]
    np.testing.assert_array_equal(hidden[0][0, 2:], hidden[1][0, 2:])


def test_a_token_to_be_predicted_can_be_hidden():
    """BOI in place of a token removes every trace of it, the shift inside the direct model included."""
    config = tiny.config()
    model, params = tiny.random_model(config)
    text, mask, coarse, fine = tiny.random_batch(config)
    known = [ids.at[:, 13].set(config.boi) for ids in (fine, fine.at[:, 13].set(0))]
    run = jax.jit(model.apply)
    a, b = (run({"params": params}, text, mask, coarse, ids) for ids in known)
    np.testing.assert_array_equal(a, b)
