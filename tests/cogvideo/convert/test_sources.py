"""What may stand in place of a source or a target: each is told in one sentence, at once, and nothing is replaced."""

import os
import shutil
import struct
import time
from pathlib import Path

import numpy as np
import pytest

from cogvideo_jax.cli.main import main
from cogvideo_jax.models.cogvideo.convert.to_official import convert_back
from cogvideo_jax.models.cogvideo.convert.to_ours import convert
from cogvideo_jax.models.cogvideo.weights import DEMO_WEIGHTS, read_labels
from tests.cogvideo.convert import tiny
from tests.cogvideo.convert.checkpoints import RANK, write_source

POINTER = "version https://git-lfs.github.com/spec/v1\noid sha256:" + "a" * 64 + "\nsize 15442\n"
SUFFIXES = ("pt", "zip", "safetensors", "model", "npy")


def refused(capsys, *arguments) -> str:
    """The sentence with which `cogvideo convert` ends within five seconds."""
    begun = time.monotonic()
    assert main(["convert", *map(str, arguments)]) == 2
    assert time.monotonic() - begun < 5
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and error.startswith("cogvideo convert: ")
    return error


def replace_by(path: Path, kind: str) -> None:
    path.unlink(missing_ok=True)
    if kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path.symlink_to("/dev/zero")
    elif kind == "terabyte":
        path.touch()
        os.truncate(path, 2**40)
    elif kind == "pointer":
        path.write_text(POINTER)


@pytest.mark.parametrize("kind", ["pipe", "device", "terabyte", "pointer"])
@pytest.mark.parametrize("suffix", SUFFIXES)
def test_a_source_that_is_no_file_of_weights_is_refused_at_once(kind, suffix, tmp_path, capsys):
    source = tmp_path / f"source.{suffix}"
    replace_by(source, kind)
    sentence = refused(capsys, source, tmp_path / "ours")
    assert str(source) in sentence and not (tmp_path / "ours").exists()
    assert ("git lfs pull" in sentence) == (kind == "pointer")
    assert ("not a regular file" in sentence) == (kind in ("pipe", "device"))


@pytest.mark.parametrize("kind", ["pipe", "device", "terabyte", "pointer"])
@pytest.mark.parametrize("name", [RANK, "latest", "model_config.json"])
def test_a_file_of_a_folder_is_held_to_the_same(kind, name, tmp_path, capsys):
    source = write_source("folder", tmp_path, tiny.stage())
    replace_by(source / name, kind)
    assert str(source) in refused(capsys, source, tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("kind", ["pipe", "device", "terabyte", "pointer"])
@pytest.mark.parametrize("name", ["pipeline.json", "base.safetensors", "stage1.safetensors"])
def test_a_target_with_something_else_in_place_of_a_file_is_refused(kind, name, tmp_path, capsys):
    source, ours = write_source("folder", tmp_path, tiny.stage()), tmp_path / "ours"
    ours.mkdir()
    replace_by(ours / name, kind)
    refused(capsys, source, ours)
    assert [path.name for path in ours.iterdir()] == [name]


def test_a_folder_without_latest_is_told_what_it_lacks_and_what_to_pass(tmp_path, capsys):
    source = write_source("folder", tmp_path, tiny.stage())
    lacks = "it has no file 'latest', which names the folder of the weights, and no mp_rank_00_model_states.pt"
    assert f"{lacks}; pass {source}\n" in refused(capsys, tmp_path, tmp_path / "ours")
    (source / "latest").unlink()
    assert f"{lacks}; pass {source / '6000'}\n" in refused(capsys, source, tmp_path / "ours")
    convert(source / "6000", tmp_path / "ours")
    (tmp_path / "empty").mkdir()
    assert refused(capsys, tmp_path / "empty", tmp_path / "other").endswith("and no mp_rank_00_model_states.pt\n")
    (source / "latest").write_text("7000")
    assert "no 7000/mp_rank_00_model_states.pt, which its file 'latest' names" in (
        refused(capsys, source, tmp_path / "other")
    )


def test_a_folder_of_downloads_names_the_file_to_pass(tmp_path, capsys):
    source = write_source("zip", tmp_path, tiny.stage())
    shutil.rmtree(tmp_path / "official")
    assert refused(capsys, tmp_path, tmp_path / "ours").endswith(f"pass {source}\n")


def test_a_link_keeps_the_name_that_tells_its_stage(tmp_path):
    made = tiny.stage()
    del made.settings["cogvideo_stage"]
    blob = tmp_path / ("a" * 64)
    write_source("zip", tmp_path, made).rename(blob)
    link = tmp_path / "cogvideo-stage2.zip"
    link.symlink_to(blob)
    assert convert(link, tmp_path / "ours").files[-1].name == "stage2.safetensors"


@pytest.mark.parametrize("heads", ["0", "-2", "3"])
def test_heads_that_no_model_has_are_refused(heads, tmp_path, capsys):
    source = write_source("folder", tmp_path, tiny.stage())
    assert heads in refused(capsys, source, tmp_path / "ours", "--heads", heads)


def test_a_target_with_the_name_of_a_file_is_refused(tmp_path, capsys):
    source = write_source("folder", tmp_path, tiny.stage())
    assert "the target must be a folder" in refused(capsys, source, tmp_path / "ours.safetensors")
    (tmp_path / "file").touch()
    assert "the target must be a folder" in refused(capsys, source, tmp_path / "file")
    convert(source, tmp_path / "ours")
    arguments = ["--to-official", "--part", "stage1", tmp_path / "ours", tmp_path / "back.zip"]
    assert "ends in .zip like a file" in refused(capsys, *arguments)


def test_a_text_model_or_labels_that_are_there_stay(tmp_path, capsys):
    ours, elsewhere = tmp_path / "ours", tmp_path / "elsewhere"
    ours.mkdir()
    elsewhere.write_text("kept")
    np.save(tmp_path / "labels.npy", np.arange(5))
    for source, name in ((DEMO_WEIGHTS / "text.model", "text.model"), (tmp_path / "labels.npy", "cluster_labels.npy")):
        (ours / name).symlink_to(elsewhere)
        assert f"{name} exists" in refused(capsys, source, ours)
        assert main(["convert", "--force", str(source), str(ours)]) == 0
        assert not (ours / name).is_symlink() and elsewhere.read_text() == "kept"


def test_what_is_no_text_model_is_named(tmp_path, capsys):
    (tmp_path / "a.model").write_bytes((DEMO_WEIGHTS / "text.model").read_bytes()[:1000])
    assert f"{tmp_path / 'a.model'} is not a SentencePiece model" in refused(
        capsys, tmp_path / "a.model", tmp_path / "o"
    )


def test_force_replaces_a_part_and_its_own_base_only(tmp_path, capsys):
    first, second = tiny.stage(), tiny.stage(cogvideo_stage=2)
    second.arrays["transformer.word_embeddings.weight"] += 1
    sources = {}
    for name, made in (("first", first), ("second", second)):
        (tmp_path / name).mkdir()
        sources[name] = str(write_source("folder", tmp_path / name, made))
    ours = tmp_path / "ours"
    for source in sources.values():
        convert(source, ours)
    kept = {name: (ours / name).read_bytes() for name in ("base.safetensors", "stage1.safetensors", "pipeline.json")}
    assert "stage2.safetensors exists" in refused(capsys, sources["second"], ours)
    convert(sources["first"], ours, part="stage2", replace=True)
    assert not (ours / "stage2_base.safetensors").exists()
    convert(sources["second"], ours, replace=True)
    assert (ours / "stage2_base.safetensors").exists()
    assert {name: (ours / name).read_bytes() for name in kept} == kept


def test_a_base_that_a_stage_stands_on_is_not_replaced(tmp_path, capsys):
    made, ours = tiny.stage(), tmp_path / "ours"
    convert(write_source("folder", tmp_path, made), ours)
    arrays = {name: array for name, array in made.arrays.items() if name.startswith("transformer.")}
    del made.settings["cogvideo_stage"]
    (tmp_path / "base").mkdir()
    base = write_source("safetensors", tmp_path / "base", made._replace(arrays=arrays))
    assert "stage1" in refused(capsys, base, ours, "--force", "--part", "base")


def test_an_export_replaces_nothing_unless_forced(tmp_path, capsys):
    convert(write_source("folder", tmp_path, tiny.stage()), tmp_path / "ours")
    for name in ("back", "back.pt", "back.safetensors"):
        arguments = ["--to-official", "--part", "stage1", str(tmp_path / "ours"), str(tmp_path / name)]
        assert main(["convert", *arguments]) == 0
        capsys.readouterr()
        assert "--force" in refused(capsys, *arguments)
        assert main(["convert", "--force", *arguments]) == 0
        capsys.readouterr()
    (tmp_path / "back" / "mine").touch()
    arguments = ["--force", "--to-official", "--part", "stage1", tmp_path / "ours", tmp_path / "back"]
    assert "has 'mine' already" in refused(capsys, *arguments)
    (tmp_path / "kept").write_text("kept")
    (tmp_path / "link.pt").symlink_to(tmp_path / "kept")
    convert_back(tmp_path / "ours", tmp_path / "link.pt", part="stage1", replace=True)
    assert (tmp_path / "kept").read_text() == "kept"


def test_an_export_to_the_current_folder_is_refused_if_it_has_files(tmp_path, capsys, monkeypatch):
    convert(write_source("folder", tmp_path, tiny.stage()), tmp_path / "ours")
    monkeypatch.chdir(tmp_path)
    assert "already" in refused(capsys, "--to-official", "--part", "stage1", "ours", ".")


def header(**changes) -> bytes:
    """A NumPy file of ten labels with another header."""
    fields = {"descr": "<i8", "fortran_order": False, "shape": (10,)} | changes
    text = repr(fields).ljust(117) + "\n"
    return b"\x93NUMPY\x01\x00" + struct.pack("<H", len(text)) + text.encode() + bytes(80)


LABELS = {
    "beyond int32": np.full(1024, 2**31),
    "of a billion": np.array([10**9, *[0] * 1023]),
    "of 2^40": np.full(4, 2**40),
    "of 2^63": np.full(4, 2**63, np.uint64),
    "negative": np.array([-1, 0]),
    "as large as their number": np.array([0, 2]),
    "in a table": np.zeros((3, 3), int),
    "one number": np.array(3),
    "none": np.zeros(0, int),
    "fractions": np.zeros(10),
    "bools": np.zeros(10, bool),
    "texts": np.array(["a", "b"]),
    "times": np.zeros(3, "m8[s]"),
    "objects": np.array([1, None]),
    "pairs": np.zeros(3, [("a", int), ("b", int)]),
}
BYTES = {
    "a header of 2^40": header(shape=(2**40,)),
    "a header of -1": header(shape=(-10,)),
    "a header of True": header(shape=(True,)),
    "fewer labels than told": header(shape=(11,)),
    "more labels than told": header(shape=(9,)),
    "a header that is no table": header().replace(b"{", b"(", 1),
    "a deep header": header(shape="(" * 60).replace(b"'((", b"(((", 1),
    "nothing": b"",
    "only the magic": b"\x93NUMPY\x01\x00",
    "another version": b"\x93NUMPY\x09\x00" + header()[8:],
    "no NumPy file": b"labels\n" * 100,
    "an archive": b"PK\x03\x04" + bytes(200),
}


@pytest.mark.parametrize("kind", LABELS)
def test_labels_of_other_values_are_refused(kind, tmp_path, capsys):
    np.save(tmp_path / "labels.npy", LABELS[kind])
    assert "labels.npy" in refused(capsys, tmp_path / "labels.npy", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


@pytest.mark.parametrize("kind", BYTES)
def test_a_damaged_file_of_labels_is_refused(kind, tmp_path, capsys):
    (tmp_path / "labels.npy").write_bytes(BYTES[kind])
    assert "labels.npy" in refused(capsys, tmp_path / "labels.npy", tmp_path / "ours")
    assert not (tmp_path / "ours").exists()


def test_an_archive_of_labels_is_refused(tmp_path, capsys):
    np.savez(tmp_path / "labels.npz", np.arange(3))
    (tmp_path / "labels.npz").rename(tmp_path / "labels.npy")
    assert "not a NumPy file of cluster labels" in refused(capsys, tmp_path / "labels.npy", tmp_path / "ours")


def test_good_labels_of_every_type_are_read(tmp_path):
    for dtype in ("<i8", ">i4", "u1", "<u8"):
        np.save(tmp_path / "labels.npy", np.array([0, 2, 1, 1], dtype))
        np.testing.assert_array_equal(read_labels(tmp_path / "labels.npy"), [0, 2, 1, 1])
