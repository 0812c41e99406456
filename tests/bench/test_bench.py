"""`cogvideo bench`: the figures belong together, and come as a table and as JSON."""

import json

import jax
import jax.numpy as jnp
import pytest

from cogvideo_jax.bench import decode, train
from cogvideo_jax.bench.machine import Machine
from cogvideo_jax.bench.sizes import SIZES, abstract_params, random_like, sized
from cogvideo_jax.cli import main
from cogvideo_jax.model.transformer import Remat, Transformer
from tests.model import tiny

MACHINE = Machine("a machine", bandwidth=1e9, flops=2e9)


def test_a_training_step_is_measured():
    config = tiny.config(tiny.KEYFRAMES)
    row = train.measure_train(config, MACHINE, dtype="float32", batch=2, remat=Remat.EVERYTHING, attention="auto")
    assert row.seconds > 0 and row.tokens_a_second == pytest.approx(2 * config.layout.length / row.seconds)
    assert row.mfu == pytest.approx(row.flops / row.seconds / 2e9)
    params = jax.tree.leaves(abstract_params(Transformer(config), jnp.float32))
    assert row.bytes > 4 * sum(leaf.size for leaf in params)
    assert "a machine: copies 1.0 GB/s, multiplies 2 GFLOP/s" in train.table([row], MACHINE)


@pytest.mark.parametrize("guided", [False, True])
def test_writing_tokens_is_measured(guided):
    config = tiny.config(tiny.INTERPOLATION, window=2)
    row = decode.measure_decode(config, MACHINE, dtype="float32", batch=3, guided=guided)
    assert row.ms > 0 and row.tokens_a_second == pytest.approx(3e3 / row.ms)
    assert row.share == pytest.approx(row.bytes / (row.ms / 1e3) / 1e9)
    assert len(decode.table([row], MACHINE).splitlines()) == 3


def test_random_weights_have_the_types_of_kept_ones():
    like = abstract_params(Transformer(tiny.config(tiny.KEYFRAMES), dtype=jnp.bfloat16), jnp.bfloat16)
    params = random_like(like)
    assert jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), params) == jax.tree.map(
        lambda leaf: (leaf.shape, leaf.dtype), like
    )
    assert params["token_table"].dtype == jnp.bfloat16 and params["norm_final"]["scale"].dtype == jnp.float32


@pytest.mark.parametrize("stage", ["stage1", "stage2"])
def test_every_size_is_of_the_stage(stage):
    demo, middle, full = (sized(size, stage) for size in SIZES)
    assert middle.layout == full.layout and middle.window == full.window
    assert demo.width < middle.width < full.width == 3072


def test_the_figures_are_written(tmp_path, capsys):
    assert main(["bench", "train", "--batch", "1", "--out", str(tmp_path / "figures.json")]) == 0
    report = json.loads((tmp_path / "figures.json").read_text())
    assert report["asked"]["size"] == "demo" and report["machine"]["bandwidth"] > 0
    assert [row["batch"] for row in report["rows"]] == [1]
    assert "MFU" in capsys.readouterr().out
