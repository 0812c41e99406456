"""`cogvideo bench`: the figures belong together, and come as a table and as JSON."""

import functools
import json

import jax
import jax.numpy as jnp
import pytest

from cogvideo_jax.bench import machine
from cogvideo_jax.bench.machine import Machine
from cogvideo_jax.bench.report import Measured, report
from cogvideo_jax.cli.main import main
from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import make_request
from cogvideo_jax.models.cogvideo.bench import decode, superres, tokenizer, train
from cogvideo_jax.models.cogvideo.bench import sizes as bench_sizes
from cogvideo_jax.models.cogvideo.bench.sizes import SIZES, RandomWeights, abstract_params, random_like, sized
from cogvideo_jax.models.cogvideo.pipeline import CogVideoSampler
from cogvideo_jax.models.cogvideo.transformer.masks import smallest_lag
from cogvideo_jax.models.cogvideo.transformer.transformer import Transformer
from cogvideo_jax.models.cogvideo.vq.config import DEMO
from cogvideo_jax.nn.remat import Remat
from tests.cogvideo.transformer import tiny

MACHINE = Machine("a machine", bandwidth=1e9, reads=5e8, flops=2e9)


def test_a_training_step_is_measured():
    config = tiny.config(tiny.KEYFRAMES, layers=1)
    row = train.measure_train(
        config, machine=MACHINE, dtype="float32", batch=2, remat=Remat.EVERYTHING, attention="auto"
    )
    assert row.seconds > 0 and row.tokens_a_second == pytest.approx(2 * config.layout.length / row.seconds)
    assert row.mfu == pytest.approx(row.flops / row.seconds / 2e9)
    params = jax.tree.leaves(abstract_params(Transformer(config), jnp.float32))
    assert row.bytes > 4 * sum(leaf.size for leaf in params)
    assert all(seconds > 0 for seconds in row.parts)
    cells = train.cells(row)
    assert cells["batch"] == "2"
    shares = [int(cells[name].removesuffix("%")) for name in (*row.parts._fields, "rest")]
    assert sum(shares) == pytest.approx(100, abs=3)


def test_writing_tokens_is_measured():
    config = tiny.config(tiny.INTERPOLATION, window=2, layers=1)
    measure = functools.partial(decode.measure_decode, config, machine=MACHINE, dtype="float32", batch=3, guided=True)
    row = measure()
    assert row.parallel_frames == 2 and row.steps == 16 + smallest_lag(4, 2)
    assert row.seconds == pytest.approx(row.steps * row.ms / 1e3)
    assert row.tokens_a_second == pytest.approx(3 * 2 * 16 / row.seconds)
    assert row.share == pytest.approx(row.bytes / (row.ms / 1e3) / 1e9)
    assert row.share_of_reads == pytest.approx(2 * row.share)
    alone = measure(wavefront=False)
    assert alone.parallel_frames == 1 and alone.steps == 32 and alone.bytes < row.bytes
    assert decode.cells(row)["parallel"] == "2"


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


def test_int8_reads_fewer_bytes():
    config = tiny.config(tiny.KEYFRAMES, layers=1)
    measure = functools.partial(decode.measure_decode, config, machine=MACHINE, dtype="float32", batch=2, guided=False)
    both, weights, neither = (measure(int8=int8).bytes for int8 in (("weights", "cache"), ("weights",), ()))
    assert both < weights < neither


def test_a_growing_cache_reads_the_frames_that_are_there():
    config = tiny.config(tiny.KEYFRAMES, layers=1)
    measure = functools.partial(decode.measure_decode, config, machine=MACHINE, dtype="float32", batch=2, guided=False)
    all_frames, growing = measure(), measure(growing_cache=True)
    slot = 2 * 2 * config.layers * config.width * config.layout.frame_tokens * 4  # rows, keys and values, float32
    unread = (config.layout.frames - 2) / 2  # of slots, on average behind the one that is given
    assert all_frames.bytes - growing.bytes == pytest.approx(unread * slot)
    assert growing.steps == all_frames.steps and growing.seconds == pytest.approx(growing.steps * growing.ms / 1e3)


@pytest.mark.parametrize("what", ["encode", "decode"])
def test_the_tokenizer_is_measured(what):
    row = tokenizer.measure_tokenizer(DEMO, machine=MACHINE, what=what, batch=2, side=32)
    assert row.ms > 0 and row.flops > 1e6 and row.share == pytest.approx(row.flops / (row.ms / 1e3) / 2e9)
    assert tokenizer.cells(row)["pixels"] == "32"


def test_super_resolution_is_measured():
    config = sized("demo", "superres")
    row = superres.measure_superres(config, machine=MACHINE, dtype="float32", batch=1)
    assert row.share == pytest.approx(row.flops / (row.ms / 1e3) / 2e9) and row.bytes > 0
    assert superres.cells(row)["batch"] == "1"


def test_random_weights_are_sampled_like_a_folder(monkeypatch):
    monkeypatch.setitem(bench_sizes.MIDDLE, "layers", 2)
    monkeypatch.setitem(bench_sizes.MIDDLE, "width", 32)
    monkeypatch.setitem(bench_sizes.MIDDLE, "mlp_width", 64)
    weights = RandomWeights("middle", dtype="float32", int8=True)
    for part in ("base", "stage1", "superres"):
        given = weights.stage(part).params
        assert jax.tree.map(lambda x: (x.shape, x.dtype), given) == jax.tree.map(
            lambda x: (x.shape, x.dtype), weights.abstract(part)
        )
    sampler = CogVideoSampler(weights)
    assert sampler.pass_rates(make_request(prompts=("a",))) == [2.0, 4.0, 8.0] and sampler.has_superres


def test_a_profile_is_written_where_asked(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(machine, "measure", lambda dtype: MACHINE)
    assert main(["bench", "tokenizer", "--trace", str(tmp_path / "trace")]) == 0
    assert list((tmp_path / "trace").rglob("*.xplane.pb"))


def test_the_figures_are_written(tmp_path, capsys):
    assert main(["bench", "train", "--batch", "1", "--out", str(tmp_path / "figures.json")]) == 0
    report = json.loads((tmp_path / "figures.json").read_text())
    assert report["asked"]["size"] == "demo" and report["machine"]["bandwidth"] > 0
    assert [row["batch"] for row in report["rows"]] == [1]
    assert "MFU" in capsys.readouterr().out


def test_a_setting_that_does_not_fit_is_named_and_the_others_are_kept(tmp_path, capsys):
    def measure(batch):
        if batch == 2:
            raise UserError("too large for this machine")
        return Measured({"size": batch}, {"size": f"{batch}"})

    settings, out = [dict(batch=n) for n in (1, 2, 3)], tmp_path / "figures.json"
    left_out = report(MACHINE, measure, settings, asked={}, out=str(out))
    shown = capsys.readouterr()
    assert left_out == 1 and shown.err == "cogvideo bench: batch 2: too large for this machine\n"
    assert shown.out.split("\n")[0] == "a machine: copies 1.0 GB/s, reads 0.5 GB/s, multiplies 2 GFLOP/s"
    assert [row["size"] for row in json.loads(out.read_text())["rows"]] == [1, 3]
