"""The same training on any mesh of eight devices: same losses, parameters split as the rules say, compiled once."""

import json
from pathlib import Path

import jax
import numpy as np
import pytest
from ml_collections import ConfigDict

from cogvideo_jax.runtime.media import write_gif
from cogvideo_jax.runtime.mesh import batch_rows, make_mesh
from cogvideo_jax.training.config_files import load_config
from tests.training.on_devices import run_all
from tests.training.run import train

MESHES = [(1, 1, 8), (8, 1, 1), (1, 8, 1), (2, 2, 2), (1, 4, 2)]
AXES, ONE = ("data", "fsdp", "tensor"), (1, 1, 1)
PARTS = ["base", "stage1", "stage2"]
RUNS = [("stage1", shape) for shape in MESHES] + [(part, (2, 2, 2)) for part in ("base", "stage2")]
SMALL = dict(
    codebook_size=16, code_width=8, encoder_channels=24, decoder_channels=24, decoder_res_blocks=0, encoder_res_blocks=0
)
WIDE = dict(width=32, heads=8, mlp_width=64, layers=2, dropout=0.1)


@pytest.fixture(scope="module")
def runs(tmp_path_factory, make_config):
    """(part, mesh) -> what on_devices found."""
    folder = tmp_path_factory.mktemp("meshes")

    def config(part, shape, **changes):
        values = make_config(part, batch_size=8, steps=3, **changes)
        values.model.update(WIDE)
        values.mesh.update(dict(zip(AXES, shape)))
        return values

    base = str(train(config("base", ONE), folder / "base"))
    starts = {"base": {}, "stage1": {"base": base}, "stage2": {"base": base}}
    wanted = [*RUNS, *((part, ONE) for part in PARTS)]
    configs = [config(part, shape, **starts[part]) for part, shape in wanted]
    wanted += [("tokenizer", ONE), ("tokenizer", (2, 4, 1))]
    configs += [tokenizer_config(folder, shape) for _, shape in wanted[-2:]]
    return dict(zip(wanted, run_all(configs, folder)))


@pytest.mark.slow
@pytest.mark.parametrize("part, shape", RUNS)
def test_losses_are_those_of_one_device(runs, part, shape):
    np.testing.assert_allclose(runs[part, shape]["losses"], runs[part, ONE]["losses"], rtol=2e-5)


@pytest.mark.slow
@pytest.mark.parametrize("part, shape", RUNS)
def test_the_step_is_compiled_once(runs, part, shape):
    assert runs[part, shape]["compilations"] == 1


@pytest.mark.slow
def test_no_parameter_is_whole_on_a_device_that_the_rules_split(runs):
    split = runs["stage1", (1, 8, 1)]["parts"]
    assert all(parts == 8 for name, parts in split.items() if "qkv_bias" not in name and "bias_in" not in name), split
    by_heads = runs["stage1", (1, 1, 8)]["parts"]
    matrices = [name for name in by_heads if "kernel" in name]
    assert matrices and all(by_heads[name] == 8 for name in matrices), by_heads
    both = runs["stage1", (1, 4, 2)]["parts"]
    assert all(both[name] == 8 for name in matrices), both


def tokenizer_config(folder, shape) -> ConfigDict:
    """The demo's tokenizer, narrower, on four clips of noise."""
    for i in range(4):
        noise = np.random.default_rng(i).integers(0, 255, (8, 16, 16, 3), np.uint8)
        write_gif(folder / f"{i}.gif", noise, fps=8, replace=True)
    rows = [json.dumps({"file": f"{i}.gif", "text": "noise"}) for i in range(4)]
    (folder / "captions.jsonl").write_text("\n".join(rows))
    config = load_config(Path(__file__).parents[2] / "configs" / "demo_tokenizer.py", [])
    config.update(steps=3, batch_size=8)
    config.model.update(SMALL)
    config.optimizer.warmup_steps = 1
    config.vq.update(window=0, scales=(1,))
    config.data.update(name=str(folder), size=16, frames_per_clip=2)
    config.mesh.update(dict(zip(AXES, shape)))
    return config


@pytest.mark.slow
def test_the_tokenizer_learns_the_same_split_over_devices(runs):
    alone, split = runs["tokenizer", ONE], runs["tokenizer", (2, 4, 1)]
    np.testing.assert_allclose(split["losses"], alone["losses"], rtol=2e-5)
    assert split["compilations"] == 1
    parts = split["parts"]
    large = [name for name in parts if "codebook" in name or ("kernel" in name and "conv_out" not in name)]
    assert len(large) > 5 and all(parts[name] == 4 for name in large), parts  # conv_out writes pixels: 3 channels


def test_a_mesh_that_does_not_fit_is_refused():
    with pytest.raises(ValueError, match="does not fit 1 devices"):
        make_mesh(dict(data=2, fsdp=1, tensor=1))
    with pytest.raises(ValueError, match="exactly the axes"):
        make_mesh(dict(data=1, model=1))


def test_a_batch_that_the_mesh_does_not_divide_is_refused():
    mesh = make_mesh(dict(data=1, fsdp=1, tensor=1))
    assert batch_rows(mesh, 4).tolist() == [0, 1, 2, 3]
    with pytest.raises(ValueError, match="batch_size 0 cannot be shared"):
        batch_rows(mesh, 0)


def test_only_data_crosses_slices():
    """Two slices of four devices: neighbours along fsdp and tensor are of one slice."""
    devices = [FakeDevice(id=i, slice_index=i // 4) for i in range(8)]
    mesh = make_mesh(dict(data=-1, fsdp=2, tensor=2), devices)
    slices = np.vectorize(lambda device: device.slice_index)(mesh.devices)
    assert slices[..., 0].tolist() == [[[0, 0], [0, 0]], [[1, 1], [1, 1]]]
    with pytest.raises(ValueError, match="only it may cross"):
        make_mesh(dict(data=1, fsdp=4, tensor=2), devices)


class FakeDevice:
    """What the mesh reads of a device."""

    platform, device_kind, process_index = "cpu", "cpu", 0

    def __init__(self, *, id: int, slice_index: int):
        self.id, self.slice_index = id, slice_index

    def __repr__(self):
        return f"{self.slice_index}.{self.id}"


def test_microbatches_give_the_same_gradient(make_config, tmp_path):
    def losses(count):
        config = make_config("base", batch_size=8, microbatches=count, steps=4)
        config.model.dropout = 0.0
        train(config, tmp_path / str(count))
        lines = (tmp_path / str(count) / "metrics.jsonl").read_text().splitlines()
        return [json.loads(line)["loss"] for line in lines]

    np.testing.assert_allclose(losses(4), losses(1), rtol=2e-5)
    assert jax.process_count() == 1
