"""`cogvideo verify`: status 0 for what is whole, else a line for each damaged file and status 2."""

import dataclasses
import json
import shutil
from pathlib import Path

import jax.numpy as jnp
import numpy as np
import pytest

from cogvideo_jax.cli.main import main
from cogvideo_jax.cli.train import tasks_of
from cogvideo_jax.data.cache import write_token_cache
from cogvideo_jax.data.clips import Clip, ClipSource
from cogvideo_jax.models.cogvideo.weights import DEMO_WEIGHTS
from cogvideo_jax.runtime.checkpoint import Checkpoints
from cogvideo_jax.runtime.digests import note_digests, read_digests
from cogvideo_jax.runtime.weights import save_weights
from cogvideo_jax.training.config_files import read_config

CONFIG = Path(__file__).parents[2] / "configs" / "demo_base.py"


class Greys(ClipSource):
    def __len__(self):
        return 4

    def name(self, row):
        return f"clip {row}"

    def __getitem__(self, row):
        return Clip(np.full((5, 4, 4, 3), row, np.uint8), 8.0, ("grey",), self.name(row))


def encode(frames):
    return frames[:, ::2, ::2, 0].reshape(-1, 4).astype(np.int32)


@pytest.fixture
def cache(tmp_path):
    folder = tmp_path / "cache"
    write_token_cache(Greys(), encode, folder, fingerprint="A", clips_per_shard=1)
    return folder


@pytest.fixture
def workdir(tmp_path):
    folder = tmp_path / "run"
    checkpoints = Checkpoints(folder, keep=3)
    for step in (1, 2):
        checkpoints.save(
            step, {"params": {"w": jnp.arange(6.0).reshape(2, 3)}, "step": jnp.asarray(step)}, {"next": step}
        )
    checkpoints.close()
    values = dataclasses.asdict(read_config(CONFIG, [], tasks_of).config)
    (folder / "config.json").write_text(json.dumps(values))
    (folder / "metrics.jsonl").write_text('{"step": 1, "loss": 2.0}\n')
    save_weights(folder / "weights.safetensors", {"w": np.ones(3, np.float32)}, {"kind": "base"})
    return folder


@pytest.fixture
def folder(weights, tmp_path):
    shutil.copytree(weights, tmp_path / "weights")
    note_digests(tmp_path / "weights")
    return tmp_path / "weights"


@pytest.fixture
def verify(capsys):
    """folder -> the lines that `cogvideo verify` prints about damage."""

    def lines(path) -> list[str]:
        status = main(["verify", str(path)])
        printed = capsys.readouterr()
        assert "Traceback" not in printed.err, printed.err
        lines = printed.out.splitlines()
        assert status == (0 if lines[0].endswith(", whole") else 2)
        return [] if status == 0 else lines

    return lines


def flip(path, place=-5) -> None:
    content = bytearray(path.read_bytes())
    content[place] ^= 1
    path.write_bytes(content)


def cut_all(paths) -> None:
    for path in paths:
        path.write_bytes(path.read_bytes()[:-1])


def test_whole_folders_have_no_damage(verify, cache, workdir, folder):
    assert verify(cache) == verify(workdir) == verify(folder) == []
    (folder / "SHA256SUMS").unlink()
    assert verify(folder) == []


def test_the_demo_weights_are_whole_and_have_digests_of_all_files(verify):
    assert verify(DEMO_WEIGHTS) == []
    assert read_digests(DEMO_WEIGHTS).keys() == {path.name for path in DEMO_WEIGHTS.iterdir()} - {"SHA256SUMS"}


def test_each_damaged_part_of_a_cache_is_named(verify, cache):
    flip(cache / "shard-00001.array_record", 3)  # where no reader looks
    (cache / "shard-00002.array_record").unlink()
    (cache / "shard-00003.json").write_text("{}")
    said = verify(cache)
    assert [f"shard-{n:05d}" in line for n, line in zip((1, 2, 3), said)] == [True] * 3
    assert "has changed since it was written" in said[0] and "does not exist" in said[1] and "lacks the key" in said[2]


@pytest.mark.parametrize("file, words", [("meta.json", "no finished token cache"), ("plan.json", "does not exist")])
def test_a_missing_description_of_a_cache_is_named(verify, cache, file, words):
    (cache / file).unlink()
    [line] = verify(cache)
    assert words in line


def test_each_damaged_part_of_a_workdir_is_named(verify, workdir):
    (workdir / "config.json").write_text('{"family": "cogvideo", "part": "base"}')
    (workdir / "metrics.jsonl").write_text('{"step": "x"}\n')
    (workdir / "weights.safetensors").write_bytes((workdir / "weights.safetensors").read_bytes()[:-4])
    cut_all((workdir / "checkpoints" / "1" / "state").rglob("d/*"))
    (workdir / "checkpoints" / "2" / "data" / "metadata").unlink()
    said = verify(workdir)
    places = ("config.json", "metrics.jsonl line 1", "checkpoints/1 cannot", "checkpoints/2 cannot", "weights")
    assert len(said) == len(places)
    for line, words in zip(said, places):
        assert words in line


@pytest.mark.parametrize("file", ["base.safetensors", "tokenizer.safetensors", "text.model", "pipeline.json"])
def test_a_changed_byte_of_a_folder_of_weights_is_named(verify, folder, file):
    flip(folder / file)
    assert f"{file} has changed since SHA256SUMS was written" in verify(folder)[0]


@pytest.mark.parametrize("file", ["base.safetensors", "tokenizer.safetensors", "text.model", "pipeline.json"])
def test_a_cut_file_of_a_folder_of_weights_is_named_without_digests(verify, folder, file):
    (folder / "SHA256SUMS").unlink()
    (folder / file).write_bytes((folder / file).read_bytes()[:100])
    assert all(file in line or "text model" in line for line in verify(folder))


def test_weights_that_are_not_finite_are_named(verify, folder):
    (folder / "SHA256SUMS").unlink()
    path = folder / "stage1.safetensors"
    path.write_bytes(path.read_bytes()[:-4] + b"\xff\xff\xff\x7f")
    [line] = verify(folder)
    assert "stage1.safetensors is damaged" in line and "NaN" in line


def test_what_is_none_of_the_three_is_refused(tmp_path, capsys):
    assert main(["verify", str(tmp_path)]) == 2
    assert "is no folder of weights, no token cache and no workdir" in capsys.readouterr().err
    assert main(["verify", str(tmp_path / "none")]) == 2
