"""Samples during a run, and figures for TensorBoard."""

import importlib.util
import json
from pathlib import Path

import numpy as np
import pytest
from ml_collections import ConfigDict
from PIL import Image

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.training.samples import check_samples, make_samples, sample_clips
from cogvideo_jax.models.cogvideo.weights import DEMO_WEIGHTS
from cogvideo_jax.runtime.media import write_gif
from cogvideo_jax.runtime.weights import load_weights
from cogvideo_jax.training.config_files import load_config
from cogvideo_jax.training.metrics import MetricsWriter
from cogvideo_jax.training.samples import Sample, write_samples
from tests.training.run import train, typed

CONFIGS = Path(__file__).parents[2] / "configs"
NARROW = dict(
    codebook_size=16, code_width=8, encoder_channels=24, decoder_channels=24, decoder_res_blocks=0, encoder_res_blocks=0
)


def demo(part: str, **samples) -> ConfigDict:
    config = load_config(CONFIGS / f"demo_{part}.py", [])
    config.samples.update(every=1, **samples)
    if part != "base":
        config.base = str(DEMO_WEIGHTS / "base.safetensors")
    return config


def test_the_tokenizer_shows_frames_beside_their_reconstructions_and_names_what_it_skipped(tmp_path, caplog):
    for i in range(4):
        write_gif(tmp_path / f"{i}.gif", np.random.default_rng(i).integers(0, 255, (8, 16, 16, 3), np.uint8), fps=8)
    rows = [json.dumps({"file": f"{i}.gif", "text": "noise"}) for i in range(6)]
    (tmp_path / "4.gif").write_bytes(b"no video")
    (tmp_path / "captions.jsonl").write_text("\n".join(rows))
    config = demo_tokenizer(tmp_path)
    train(config, tmp_path / "run")
    files = sorted(path.name for path in (tmp_path / "run" / "samples").iterdir())
    assert files == [f"step_00000{step}_{i}.png" for step in (2, 3) for i in range(2)]
    assert Image.open(tmp_path / "run" / "samples" / files[0]).size == (32, 16)
    lines = list(map(json.loads, (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()))
    assert "skipped 2: captions.jsonl line 6: there is no file 5.gif; 4.gif: cannot read video" in caplog.messages[-1]
    assert lines[-1]["validation_loss"] > 0 and "validation_psnr" in lines[-1]


def demo_tokenizer(folder: Path) -> ConfigDict:
    config = load_config(CONFIGS / "demo_tokenizer.py", [])
    config.update(steps=3, batch_size=8, log_every=1)
    config.model.update(NARROW)
    config.optimizer.warmup_steps = 1
    config.vq.update(window=0, scales=(1,))
    config.data.update(name=str(folder), size=16, frames_per_clip=2)
    config.samples.update(every=2, frames=2)
    config.validation.update(every=3, batches=1, share=0.5)
    return config


def test_the_part_that_trains_stands_among_the_finished_ones():
    tree, description = load_weights(DEMO_WEIGHTS / "base.safetensors")
    config = typed(demo("base", prompts=("a red ball",)))
    [before] = make_samples(DEMO_WEIGHTS, config)
    [same] = sample_clips(config, tree, description)
    assert before.fps is None and before.frames.shape == (1, 64, 64, 3)
    np.testing.assert_array_equal(same.frames, before.frames)
    [other] = sample_clips(config, tree | {"token_table": tree["token_table"][::-1]}, description)
    assert np.any(other.frames != before.frames)


def test_samples_that_the_other_weights_cannot_make_are_refused_before_the_run():
    check_samples(typed(demo("stage1")))
    config = demo("stage1")
    config.model.mlp_width = 256
    with pytest.raises(UserError, match="stage1 of other sizes"):
        check_samples(typed(config))
    with pytest.raises(UserError, match="does not use itersr"):
        check_samples(typed(demo("itersr")))


def test_clips_become_videos_and_pictures_png(tmp_path):
    frames = np.zeros((5, 16, 16, 3), np.uint8)
    write_samples(tmp_path, 100, [Sample(frames, 2.0), Sample(frames[:1], None)])
    assert sorted(path.name for path in tmp_path.iterdir()) == ["step_000100_0.mp4", "step_000100_1.png"]


def test_tensorboard_that_is_not_installed_is_named_before_any_work(make_config, tmp_path, monkeypatch):
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(UserError, match="needs tensorboardX"):
        train(make_config("base", tensorboard=True), tmp_path / "run")
    assert not (tmp_path / "run").exists()


def test_tensorboard_gets_the_same_figures(tmp_path):
    writer = MetricsWriter(tmp_path / "metrics.jsonl", first_step=0, steps=1, tensorboard=tmp_path / "board")
    writer.write(1, {"loss": 2.0})
    writer.close()
    [file] = (tmp_path / "board").iterdir()
    assert b"loss" in file.read_bytes()
