"""Whenever a command is killed, everything with a name is whole, nothing finished is lost, and the end is the same.

COGVIDEO_KILLS sets how often each of the five commands is killed (by default once).
"""

import json
import os
import subprocess
import sys

import numpy as np
import pytest

from cogvideo_jax.models.cogvideo.vq.tokenizer import load_tokenizer
from cogvideo_jax.runtime.media import write_gif
from cogvideo_jax.runtime.weights import load_weights, save_weights
from tests.cogvideo.convert import tiny
from tests.cogvideo.convert.checkpoints import write_source
from tests.test_configs import FOLDER

KILLS = int(os.environ.get("COGVIDEO_KILLS", "1"))
NARROW = dict(
    codebook_size=16, code_width=8, encoder_channels=24, decoder_channels=24, decoder_res_blocks=0, encoder_res_blocks=0
)
TRAINING = {
    "steps": 12,
    "batch_size": 4,
    "checkpoint_every": 2,
    "log_every": 1,
    "optimizer.warmup_steps": 1,
    "vq.window": 0,
    "vq.scales": "(1,)",
    "data.size": 16,
    "data.frames_per_clip": 2,
    **{f"model.{key}": value for key, value in NARROW.items()},
}


@pytest.fixture
def videos(tmp_path):
    folder = tmp_path / "videos"
    folder.mkdir()
    for i in range(16):
        noise = np.random.default_rng(i).integers(0, 255, (8, 16, 16, 3), np.uint8)
        write_gif(folder / f"{i}.gif", noise, fps=8)
    rows = [json.dumps({"file": f"{i}.gif", "text": f"noise {i}"}) for i in range(16)]
    (folder / "captions.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture
def arguments(videos, weights, tmp_path):
    """Command -> its words; OUT stands for the folder that it writes."""
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("a red ball\na cat\nnoise\n")
    source = write_source("zip", tmp_path, tiny.stage())
    fingerprint = load_tokenizer(weights / "tokenizer.safetensors").fingerprint
    parts = [f"--tokenizer={weights / 'tokenizer.safetensors'}"]
    for part in ("base", "stage1", "stage2"):
        tree, description = load_weights(weights / f"{part}.safetensors")
        save_weights(tmp_path / f"{part}.safetensors", tree, description | {"tokenizer": fingerprint})
        parts.append(f"--{part}={tmp_path / part}.safetensors")
    changes = [f"--config.{key}={value}" for key, value in TRAINING.items()]
    words = {
        "train": [
            f"--config={FOLDER / 'demo_tokenizer.py'}",
            *("--workdir", "OUT"),
            f"--config.data.name={videos}",
            *changes,
        ],
        "tokenize": [
            *("--source", videos, "--out", "OUT", "--size", 16, "--text-pieces", 300),
            *("--tokenizer", weights / "tokenizer.safetensors"),
        ],
        "convert": [source, "OUT"],
        "assemble": [
            *parts,
            *("--text-model", weights / "text.model", "--sampling-config", weights / "pipeline.json", "--out", "OUT"),
        ],
        "generate": ["--prompts", prompts, "--weights", weights, "--out", "OUT", "--batch", 1, "--fps", 2],
    }
    return {command: [command, *map(str, rest)] for command, rest in words.items()}


@pytest.mark.slow
def test_kills_leave_nothing_unreadable_lose_nothing_and_change_nothing(arguments, tmp_path):
    (tmp_path / "tasks.json").write_text(json.dumps({"kills": KILLS, "seed": 0, "arguments": arguments}))
    command = [sys.executable, "-m", "tests.end_to_end.kills", tmp_path / "tasks.json", tmp_path]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    told = json.loads(done.stdout)
    print(json.dumps(told))
    for kind, found in told.items():
        assert found["kills"] >= KILLS and found["resumed"] > 0, kind
        assert found["unreadable"] == found["lost"] == found["different"] == [], kind
