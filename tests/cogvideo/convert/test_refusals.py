"""Damaged and hostile files: each is refused with one sentence, none runs code, nothing is written."""

import pickle
import shutil
import sys
from pathlib import Path

import numpy as np
import pytest
import safetensors.numpy

from cogvideo_jax.cli.main import main
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.convert.to_official import convert_back
from cogvideo_jax.models.cogvideo.convert.to_ours import convert
from cogvideo_jax.runtime.weights import save_weights
from tests.cogvideo.convert import tiny
from tests.cogvideo.convert.checkpoints import FORMS, RANK, official, write_source
from tests.cogvideo.convert.damages import DAMAGES, payloads

FILES = 200


def assert_refused(source: Path, target: Path, marker: Path) -> str:
    """Returns the sentence."""
    before = {path: path.stat().st_mtime_ns for path in source.parent.rglob("*")}
    with pytest.raises(ValueError) as caught:
        convert(source, target)
    sentence = str(caught.value)
    assert str(source) in sentence or source.parent.name in sentence, sentence
    assert len(sentence) < 3000 and sentence.isprintable() and ". " not in sentence, sentence
    assert not marker.exists(), f"{source} ran code"
    assert not target.exists(), sorted(target.rglob("*"))
    assert {path: path.stat().st_mtime_ns for path in source.parent.rglob("*")} == before
    return sentence


def test_the_undamaged_files_convert(tmp_path):
    for form in FORMS:
        folder = tmp_path / form
        folder.mkdir()
        convert(write_source(form, folder, tiny.stage()), folder / "ours")
        assert (folder / "ours" / "stage1.safetensors").exists()


def test_the_payloads_would_run(tmp_path):
    for number, payload in enumerate(payloads(tmp_path / "marker")):
        data = pickle.dumps(payload)
        pickle.loads(data)
        assert (tmp_path / "marker").exists(), number
        (tmp_path / "marker").unlink()


def test_two_hundred_damaged_or_hostile_files_are_refused(tmp_path):
    marker, told = tmp_path / "marker", set()
    for number in range(FILES):
        damage = DAMAGES[number % len(DAMAGES)]
        folder = tmp_path / f"file{number}"
        folder.mkdir()
        rng = np.random.default_rng([2022, number])
        source = damage(rng, folder, tiny.stage(), marker)
        told.add((damage.__name__, assert_refused(source, tmp_path / "ours", marker).split(str(folder))[-1]))
        shutil.rmtree(folder)
    for name, sentence in sorted(told):
        print(f"{name}: {sentence}")


def test_flipped_bytes_anywhere_give_a_refusal_or_the_same_weights(tmp_path):
    source = write_source("folder", tmp_path, tiny.stage())
    whole, refused = (source / RANK).read_bytes(), 0
    convert(source, tmp_path / "ours")
    expected = {path.name: path.read_bytes() for path in (tmp_path / "ours").iterdir()}
    for number in range(100):
        rng = np.random.default_rng([7, number])
        data = bytearray(whole)
        data[rng.integers(len(data))] ^= 1 << rng.integers(8)
        (source / RANK).write_bytes(data)
        target = tmp_path / f"target{number}"
        try:
            convert(source, target)
        except ValueError:
            refused += 1
            assert not target.exists()
        else:
            assert {path.name: path.read_bytes() for path in target.iterdir()} == expected
    assert refused > 20


def test_missing_unexpected_and_misshapen_names_are_listed_together(tmp_path):
    made = tiny.stage()
    for layer in range(2):
        del made.arrays[f"mixins.attention_plus.dense.{layer}.bias"]
    made.arrays["transformer.layers.1.mlp.dense_h_to_4h.bias"] = np.ones(31, np.float32)
    made.arrays["extra.weight"] = np.ones(1, np.float32)
    sentence = assert_refused(write_source("folder", tmp_path, made), tmp_path / "ours", tmp_path / "marker")
    assert "missing mixins.attention_plus.dense.{0..1}.bias" in sentence
    assert "unexpected extra.weight" in sentence
    assert "misshapen transformer.layers.1.mlp.dense_h_to_4h.bias (of the first (31,), expected (32,))" in sentence


def test_a_part_that_the_names_contradict_is_refused(tmp_path):
    source = write_source("pt", tmp_path, official("a_vqvae"))
    with pytest.raises(ValueError, match="is not stage1; its names are those of tokenizer"):
        convert(source, tmp_path / "ours", part="stage1")


def test_a_stage_that_nothing_tells_is_asked_for(tmp_path):
    made = tiny.stage()
    del made.settings["cogvideo_stage"]
    source = write_source("folder", tmp_path, made)
    assert "--part stage1 or --part stage2" in assert_refused(source, tmp_path / "ours", tmp_path / "marker")
    named = source.rename(tmp_path / "cogvideo-stage2")
    assert convert(named, tmp_path / "ours").files[-1].name == "stage2.safetensors"


def test_weights_of_this_project_are_not_an_official_source(tmp_path):
    save_weights(tmp_path / "stage1.safetensors", {"a": np.ones(2, np.float32)}, {"kind": "stage1"})
    sentence = assert_refused(tmp_path / "stage1.safetensors", tmp_path / "ours", tmp_path / "marker")
    assert "--to-official" in sentence


def test_what_cannot_be_exported_is_refused_and_nothing_is_written(tmp_path):
    convert(write_source("folder", tmp_path, tiny.stage()), tmp_path / "ours")
    before = set(tmp_path.iterdir())
    for part, words in (("stage2", "does not exist"), ("tokenizer", "one file")):
        with pytest.raises(ValueError, match=words):
            convert_back(tmp_path / "ours", tmp_path / "back", part=part)
    (tmp_path / "ours" / "stage1.safetensors").rename(tmp_path / "ours" / "stage2.safetensors")
    with pytest.raises(ValueError, match="does not hold the stage2"):
        convert_back(tmp_path / "ours", tmp_path / "back", part="stage2")
    safetensors.numpy.save_file({"a": np.ones(2)}, tmp_path / "ours" / "stage1.safetensors")
    with pytest.raises(ValueError, match="not a weights file of this project"):
        convert_back(tmp_path / "ours", tmp_path / "back", part="stage1")
    assert set(tmp_path.iterdir()) == before


def test_the_command_says_one_sentence_and_exits_with_2(tmp_path, capsys):
    for arguments in (
        ["convert", str(tmp_path / "none"), str(tmp_path / "ours")],
        ["convert", "--to-official", str(tmp_path), str(tmp_path / "back")],
        ["convert", "--to-official", "--part", "base", str(tmp_path), str(tmp_path / "back")],
    ):
        assert main(arguments) == 2
        error = capsys.readouterr().err.strip()
        assert error.startswith("cogvideo convert: ") and "\n" not in error


def test_only_writing_a_torch_file_needs_torch(tmp_path, monkeypatch):
    source = write_source("folder", tmp_path, tiny.stage())
    monkeypatch.setitem(sys.modules, "torch", None)
    convert(source, tmp_path / "ours")
    convert_back(tmp_path / "ours", tmp_path / "back.safetensors", part="stage1")
    with pytest.raises(UserError, match=r"\[convert\]"):
        convert_back(tmp_path / "ours", tmp_path / "back", part="stage1")
    assert not (tmp_path / "back").exists()
