"""The optimizer: the steps of each kind of leaf, and the sharding of its moments."""

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax.traverse_util import flatten_dict

from cogvideo_jax.models.cogvideo.training.backbone_task import build_model
from cogvideo_jax.models.cogvideo.training.parameters import MATRICES, abstract_params
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.training.optimizer import ADAM_RMS, make_optimizer
from cogvideo_jax.training.state import state_shardings
from tests.training.run import typed


@pytest.fixture
def config(make_config):
    config = make_config("stage1")
    config.optimizer.warmup_steps = 0
    return config


@pytest.fixture
def params(config):
    model = build_model(typed(config))
    return nn.meta.unbox(model.init(jax.random.key(0), *model.empty_inputs())["params"])


def test_matrices_of_layers_take_orthogonalised_steps_of_adams_size(config, params):
    rng = np.random.default_rng(0)
    gradients = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape), jnp.float32), params)
    tx = make_optimizer(config.optimizer, steps=10, matrices=MATRICES)
    steps = flatten_dict(tx.update(gradients, tx.init(params), params)[0])
    matrices = {path for path in steps if path[-1] in MATRICES}
    assert {path[-1] for path in matrices} == set(MATRICES)
    rate = config.optimizer.learning_rate
    for path in matrices:
        size = float(jnp.sqrt(jnp.mean(steps[path] ** 2))) / rate
        assert 0.5 * ADAM_RMS < size < 1.5 * ADAM_RMS, path
    query = np.asarray(steps["layers", "spatial", "qkv_kernel"])[0, :, 0].reshape(16, 16)
    stretches = np.linalg.svd(query, compute_uv=False)
    assert stretches.max() < 3 * stretches.min()  # of such gradients they differ tens of times
    table = np.abs(steps["token_table",])
    np.testing.assert_allclose(table, table.mean(), rtol=2e-2)  # Adam's first step: as long everywhere


@pytest.mark.parametrize("muon", [False, True])
def test_moments_lie_beside_their_parameters(config, params, muon):
    config.optimizer.muon = muon
    mesh = meshes.make_mesh(config.mesh)
    shardings = meshes.shardings(abstract_params(build_model(typed(config))), mesh)
    tx = make_optimizer(config.optimizer, steps=10, matrices=MATRICES)
    shapes = jax.tree.map(lambda leaf: jax.ShapeDtypeStruct(leaf.shape, leaf.dtype), params)
    placed = jax.tree_util.tree_leaves_with_path(state_shardings(shapes, shardings, tx, mesh).opt_state)
    kernels = [sharding for path, sharding in placed if path[-1] == jax.tree_util.DictKey("kernel_in")]
    assert len(kernels) == (1 if muon else 2)  # Adam keeps two moments, Muon one
    assert all(sharding == shardings["layers"]["mlp"]["kernel_in"] for sharding in kernels)
    assert any(axis is not None for axis in kernels[0].spec)


def test_only_matrices_and_tables_decay(config, params):
    """With no gradient a step is the decay alone."""
    config.optimizer.muon = False
    tx = make_optimizer(config.optimizer, steps=10, matrices=MATRICES)
    ones = jax.tree.map(jnp.ones_like, params)
    steps = flatten_dict(tx.update(jax.tree.map(jnp.zeros_like, params), tx.init(ones), ones)[0])
    decayed = {path[-1] for path, step in steps.items() if np.any(step)}
    assert {"kernel_in", "kernel_out", "qkv_kernel", "out_kernel", "token_table"} <= decayed
    assert not any("bias" in name or name == "scale" for name in decayed)
