"""Whatever happens to a command, everything with a name is whole, nothing finished is lost, and the end is the same.

COGVIDEO_KILLS sets how often each of five commands is killed (by default once), COGVIDEO_SEED at which moments.
"""

import json
import os
import shutil
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

KILLS, SEED = (int(os.environ.get(name, one)) for name, one in (("COGVIDEO_KILLS", "1"), ("COGVIDEO_SEED", "0")))
NARROW = dict(
    codebook_size=16, code_width=8, encoder_channels=24, decoder_channels=24, decoder_res_blocks=0, encoder_res_blocks=0
)
TRAINING = {
    "steps": 6,
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
NAMESPACE = ["unshare", "--map-root-user", "--mount"]  # in which disks can be mounted
if (
    shutil.which("unshare") is None
    or subprocess.run([*NAMESPACE, "mount", "-t", "tmpfs", "none", "/tmp"], capture_output=True).returncode
):
    NAMESPACE = []


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    return tmp_path_factory.mktemp("interruptions")


@pytest.fixture(scope="module")
def videos(folder):
    folder = folder / "videos"
    folder.mkdir()
    for i in range(12):
        noise = np.random.default_rng(i).integers(0, 255, (8, 16, 16, 3), np.uint8)
        write_gif(folder / f"{i}.gif", noise, fps=8)
    rows = [json.dumps({"file": f"{i}.gif", "text": f"noise {i}"}) for i in range(12)]
    (folder / "captions.jsonl").write_text("\n".join(rows))
    return folder


@pytest.fixture(scope="module")
def commands(videos, weights, folder):
    """Words of each command; OUT stands for the folder that it writes."""
    prompts = folder / "prompts.txt"
    prompts.write_text("a red ball\na cat\n")
    source = write_source("zip", folder, tiny.stage())
    fingerprint = load_tokenizer(weights / "tokenizer.safetensors").fingerprint
    parts = [f"--tokenizer={weights / 'tokenizer.safetensors'}"]
    for part in ("base", "stage1", "stage2"):
        tree, description = load_weights(weights / f"{part}.safetensors")
        save_weights(folder / f"{part}.safetensors", tree, description | {"tokenizer": fingerprint})
        parts.append(f"--{part}={folder / part}.safetensors")
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
    return [[command, *map(str, rest)] for command, rest in words.items()]


@pytest.fixture(scope="module")
def told(commands, folder):
    """What became of each command."""
    (folder / "tasks.json").write_text(
        json.dumps({"kills": KILLS, "seed": SEED, "disks": bool(NAMESPACE), "commands": commands})
    )
    command = [*NAMESPACE, sys.executable, "-m", "tests.end_to_end.interruptions", folder / "tasks.json", folder]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
def test_kills_leave_nothing_unreadable_lose_nothing_and_change_nothing(told):
    for kind, found in told.items():
        print(kind, found["kills"], "kills, then to the end", found["resumed"], "times")
        assert found["kills"] >= KILLS and found["resumed"] > 0, kind
        assert found["unreadable"] == found["lost"] == found["different"] == [], kind


@pytest.mark.slow
@pytest.mark.skipif(not NAMESPACE, reason="disks cannot be mounted here")
@pytest.mark.parametrize("disk", ["read-only", "full", "emptied", "slow"])
def test_a_bad_disk_is_told_in_one_sentence_leaves_nothing_half_written_and_the_next_run_ends(told, disk):
    for kind, found in told.items():
        one = found["disks"][disk]
        print(kind, one)
        assert disk == "emptied" or one["left"] == [], kind  # what was removed in the middle is no one's fault
        if disk in ("read-only", "full"):
            assert one["status"] == 2 and len(one["said"]) == 1, kind
        elif disk == "emptied":
            assert one["status"] in (0, 2) and len(one["said"]) <= 1, kind
        else:
            assert one["status"] == 0 and one["same"], kind
