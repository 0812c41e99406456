"""Weights files, metrics and meshes."""

import json

import ml_dtypes
import numpy as np
import pytest

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.mesh import make_mesh
from cogvideo_jax.runtime.weights import load_weights, save_weights
from cogvideo_jax.training.metrics import MetricsWriter

TREE = {"layers": {"kernel": np.arange(6, dtype=np.float32).reshape(2, 3)}, "table": np.ones(2, np.float32)}


def test_weights_survive_the_round_trip(tmp_path):
    save_weights(tmp_path / "a.safetensors", TREE, {"kind": "base", "config": {"width": 3}})
    tree, description = load_weights(tmp_path / "a.safetensors")
    np.testing.assert_array_equal(tree["layers"]["kernel"], TREE["layers"]["kernel"])
    assert description == {"kind": "base", "config": {"width": 3}}
    assert [path.name for path in tmp_path.iterdir()] == ["a.safetensors"]


def test_a_damaged_or_foreign_file_is_refused(tmp_path):
    path = tmp_path / "a.safetensors"
    save_weights(path, TREE, {})
    path.write_bytes(path.read_bytes()[:50])
    with pytest.raises(ValueError, match="damaged"):
        load_weights(path)
    path.write_bytes(b"PK\x03\x04 a torch file")
    with pytest.raises(ValueError, match="not a weights file"):
        load_weights(path)
    with pytest.raises(ValueError, match="does not exist"):
        load_weights(tmp_path / "none.safetensors")


def test_lines_after_the_resumed_step_and_damaged_lines_are_dropped(tmp_path):
    path = tmp_path / "metrics.jsonl"
    path.write_text('{"step": 1, "loss": 3}\n{"step": 2, "loss": 2}\n{"step": 3, "loss": 9}\n{"step": 4, "lo')
    metrics = MetricsWriter(path, first_step=2, steps=5)
    metrics.write(3, {"loss": 1.0})
    metrics.close()
    assert [json.loads(line)["loss"] for line in path.read_text().splitlines()] == [3, 2, 1.0]


def test_a_mesh_that_does_not_fit_the_devices_is_refused():
    assert dict(make_mesh({"data": -1, "fsdp": 1, "tensor": 1}).shape)["fsdp"] == 1
    with pytest.raises(ValueError, match="does not fit"):
        make_mesh({"data": 1, "fsdp": 1000, "tensor": 1})
    with pytest.raises(ValueError, match="exactly the axes"):
        make_mesh({"data": 1})


@pytest.mark.parametrize("dtype", [np.float32, np.float16, ml_dtypes.bfloat16])
@pytest.mark.parametrize("number", [np.nan, np.inf, -np.inf])
def test_weights_with_numbers_that_are_not_finite_are_refused(tmp_path, dtype, number):
    path = tmp_path / "a.safetensors"
    save_weights(path, {"fine": np.ones(3, np.int32), "bad": np.asarray([1, number], dtype)}, {})
    with pytest.raises(UserError, match=r"a.safetensors is damaged: bad has numbers that are NaN or infinite"):
        load_weights(path)
