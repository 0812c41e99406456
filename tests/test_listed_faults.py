"""Values that public reports and attacks brought to light, each refused in a sentence that names its key."""

import json
import re
import shutil

import numpy as np
import pytest
from flax.traverse_util import flatten_dict
from safetensors.numpy import save_file

from cogvideo_jax.cli.main import main
from cogvideo_jax.errors import UserError
from cogvideo_jax.models import registry
from cogvideo_jax.models.cogvideo.sampling_config import FILE, read_sampling_config
from cogvideo_jax.models.cogvideo.text import fit_text_model
from cogvideo_jax.models.cogvideo.vq.tokenizer import load_tokenizer
from cogvideo_jax.models.cogvideo.weights import DEMO_WEIGHTS, WeightsFolder
from cogvideo_jax.runtime.weights import load_weights
from cogvideo_jax.training.config_files import read_config
from tests.cogvideo.test_weights import change
from tests.test_configs import FOLDER

NAN, INFINITY = float("nan"), float("inf")
PIPELINE = {
    "pixels": ("16", None, -16, 0, 1.5),
    "keyframe_fps": ("1.0", [0.0], [None], [INFINITY], [], [NAN]),
    "interpolation_fps": ("248", ["2"], [NAN], [0.0, 0.0]),
    "first_frame": (
        {"temperature": NAN},
        {"temperature": INFINITY},
        {"temperature": 0},
        {"greedy": "no"},
        {"top_clusters": 2.5},
    ),
    "first_frame_suffix": (None, 5, "\ud800"),
    "guidance": (NAN, -5, True, "2", [2]),
    "text_log_weight": ("0.5", NAN, None),
    "windows_per_call": (0, -1, "4", 1.5),
    "superres_per_call": (0, "1", 1.5),
    "decoded_per_call": (0, "1", 1.5),
    "guided_suffix": (None,),
    "whole_words": ("no", None),
}
OVERRIDES = [
    *("steps.x=1", "steps=None", "batch_size=0", "batch_size=-4", "dtype=float31", "dtype=int8", "model.heads=0"),
    *("model.layers=0", "model.width=0", "model.window=0", "model.vocab_size=1000000000000", "model.layout.grid=0"),
    *("model.layout.text_length=-1", "example.rates=('a',)", "log_every=0", "checkpoint_every=0"),
    *("keep_checkpoints=0", "model.dropout=1.5", "model.dropout=-1", "optimizer.warmup_steps=-1", "optimizer.b1=2.0"),
    *("optimizer.eps=-1.0", "optimizer.clip_norm=0.0", "example.text_dropout=5.0"),
    *("example.moment_probability=3.0", "example.moments_a_second=0.0"),
]
CONFIG_FILES = {
    "a number": "get_config = 3",
    "a name": "x = y",
    "a division": "1/0",
    "a key": "{}['a']",
    "an argument": "def get_config(a):\n    return a",
    "a recursion": "def get_config():\n    return get_config()",
    "a list": "from ml_collections import ConfigDict\ndef get_config():\n    return ConfigDict(dict(part=['base']))",
}
WHOLE_FILES = {"a key twice": b'{"pixels": 16, "pixels": 16}', "lists": b"[" * 100_000, "objects": b'{"a":' * 100_000}


def tasks_of(family):
    return registry.family(family).tasks()


@pytest.fixture
def folder(tmp_path):
    shutil.copytree(DEMO_WEIGHTS, tmp_path / "weights")
    return tmp_path / "weights"


@pytest.mark.parametrize("key, value", [(key, value) for key, values in PIPELINE.items() for value in values])
def test_a_sampling_config_with_this_value_is_refused(folder, key, value):
    values = json.loads((folder / FILE).read_text())
    (folder / FILE).write_text(json.dumps(values | {key: value}))
    with pytest.raises(UserError, match=r"unexpected end of hex escape" if value == "\ud800" else key):
        WeightsFolder(folder)


def test_pixels_that_the_tokenizer_cannot_cut_are_refused_before_any_work(folder, tmp_path, capsys):
    (folder / FILE).write_text((folder / FILE).read_text().replace('"pixels": 64', '"pixels": 17'))
    assert main(["generate", "a red ball", "--weights", str(folder), "--out", str(tmp_path / "a.mp4")]) == 2
    assert "17 is not divisible by the rate 8" in capsys.readouterr().err


@pytest.mark.parametrize("content", [*WHOLE_FILES.values(), b"\xff\xfe"], ids=[*WHOLE_FILES, "other bytes"])
def test_a_file_like_this_is_no_sampling_config(tmp_path, content):
    (tmp_path / FILE).write_bytes(content)
    with pytest.raises(UserError, match=FILE):
        read_sampling_config(tmp_path / FILE)


@pytest.mark.parametrize("override", OVERRIDES)
def test_a_training_config_with_this_value_is_refused(override):
    key = override.split("=")[0]
    with pytest.raises(UserError) as caught:
        read_config(str(FOLDER / "demo_base.py"), [f"--config.{override}"], tasks_of)
    assert key.removesuffix(".x").rpartition(".")[2] in str(caught.value) and str(caught.value).isprintable()


def test_a_stage_without_frame_rates_is_refused():
    with pytest.raises(UserError, match="rates"):
        read_config(str(FOLDER / "demo_stage1.py"), ["--config.example.rates=()"], tasks_of)


@pytest.mark.parametrize("content", CONFIG_FILES.values(), ids=CONFIG_FILES)
def test_a_config_file_like_this_is_told_in_one_sentence(tmp_path, capsys, content):
    (tmp_path / "config.py").write_text(content)
    assert main(["train", f"--config={tmp_path / 'config.py'}", "--check"]) == 2
    said = capsys.readouterr().err
    assert said.count("\n") == 1 and "config.py" in said


DESCRIPTIONS = [
    *(("stage2", {key: value}) for key, value in dict(heads=0, layers=3, width=32, vocab_size=10**9).items()),
    *(("stage2", {key: value}) for key, value in dict(layers=10**6, image_codes=16, dropout=NAN).items()),
    *(("stage1", {"layout": change}) for change in ({"context_slots": 9}, {"frame_times": [0, 1]})),
]


@pytest.mark.parametrize("part, changes", DESCRIPTIONS)
def test_a_part_with_this_description_is_refused_before_anything_is_loaded(folder, part, changes):
    def apply(description):
        for key, value in changes.items():
            config = description["config"]
            config[key] = config[key] | value if isinstance(value, dict) else value

    change(folder, part, change_description=apply)
    with pytest.raises(UserError, match=rf"{part}\.safetensors"):
        WeightsFolder(folder)


def test_two_stages_that_are_exchanged_are_told_apart(folder):
    (folder / "stage1.safetensors").rename(folder / "other")
    (folder / "stage2.safetensors").rename(folder / "stage1.safetensors")
    (folder / "other").rename(folder / "stage2.safetensors")
    with pytest.raises(UserError, match="holds 'stage2', not 'stage1'"):
        WeightsFolder(folder)


def test_a_leaf_that_is_also_the_name_of_a_group_is_refused(folder):
    leaves, description = load_weights(folder / "base.safetensors")
    flat = {"/".join(path): leaf for path, leaf in flatten_dict(leaves).items()} | {"layers": np.ones(2, np.float32)}
    save_file(flat, folder / "base.safetensors", metadata={"description": json.dumps(description)})
    with pytest.raises(UserError, match=r"base\.safetensors"):
        WeightsFolder(folder)


def test_a_text_model_with_more_pieces_than_the_weights_have_is_refused(folder):
    words = [chr(0x4E00 + start) + chr(0x4E00 + start + 1) for start in range(0, 900, 2)]
    (folder / "text.model").write_bytes(fit_text_model(words, pieces=1200))
    [said] = registry.family_of(folder).check(folder)
    assert re.search(r"text\.model has \d+ pieces; these weights have room for 640", said)


@pytest.mark.parametrize("lacks", ["config", "networks"])
def test_a_tokenizer_without_a_part_of_itself_is_refused(folder, lacks):
    if lacks == "config":
        change(folder, "tokenizer", change_description=lambda description: description.pop("config"))
    else:
        change(folder, "tokenizer", lambda leaves: [leaves.pop(path) for path in list(leaves) if path[0] == lacks])
    with pytest.raises(UserError, match=r"tokenizer\.safetensors"):
        load_tokenizer(folder / "tokenizer.safetensors")
