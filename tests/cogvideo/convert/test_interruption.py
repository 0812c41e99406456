"""A conversion that is stopped, however, leaves nothing half-written that loads; the next one cleans up."""

import errno
import fcntl
import os
import resource
import signal
import subprocess
import sys
from types import SimpleNamespace

import pytest

from cogvideo_jax.cli.main import main
from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.convert import to_official, to_ours
from cogvideo_jax.models.cogvideo.convert.to_official import convert_back
from cogvideo_jax.models.cogvideo.convert.to_ours import convert
from cogvideo_jax.models.cogvideo.weights import DEMO_WEIGHTS
from cogvideo_jax.runtime.digests import check_digests
from cogvideo_jax.runtime.weights import load_weights
from tests.cogvideo.convert import tiny
from tests.cogvideo.convert.checkpoints import assert_same_bits, official, read_sat, write_source

STAGE1 = "b_train_stage1_full"


def names(folder) -> set[str]:
    return {path.name for path in folder.iterdir()}


def stop_at(monkeypatch, module, function: str, call: int, error: BaseException) -> None:
    """Lets `module.function` raise at its `call`-th call."""
    real, calls = getattr(module, function), iter(range(10**9))

    def stopping(*args, **kwargs):
        if next(calls) == call:
            raise error
        return real(*args, **kwargs)

    monkeypatch.setattr(module, function, stopping)


@pytest.mark.parametrize("call", [0, 1, 40, 80])
@pytest.mark.parametrize(
    ("error", "expected"),
    [(KeyboardInterrupt(), KeyboardInterrupt), (OSError(errno.ENOSPC, "No space left on device"), UserError)],
)
def test_a_stopped_conversion_leaves_nothing(call, error, expected, tmp_path, monkeypatch):
    source = write_source("zip", tmp_path, official(STAGE1))
    with monkeypatch.context() as patch:
        stop_at(patch, to_ours, "to_our_layout", call, error)
        with pytest.raises(expected):
            convert(source, tmp_path / "new" / "ours", part="stage1")
    assert not (tmp_path / "new").exists()
    convert(source, tmp_path / "new" / "ours", part="stage1")


def test_a_conversion_stopped_between_its_two_files_leaves_a_whole_base(tmp_path, monkeypatch):
    made = official(STAGE1)
    source = write_source("folder", tmp_path, made)
    real = type(tmp_path).replace

    def stopping(path, target):
        if path.name == "stage1.safetensors":
            raise KeyboardInterrupt
        return real(path, target)

    with monkeypatch.context() as patch:
        patch.setattr(type(tmp_path), "replace", stopping)
        with pytest.raises(KeyboardInterrupt):
            convert(source, tmp_path / "ours")
    assert names(tmp_path / "ours") == {"base.safetensors", "pipeline.json", "SHA256SUMS"}
    convert(source, tmp_path / "ours")
    assert_same_bits(read_sat(convert_back(tmp_path / "ours", tmp_path / "back", part="stage1")), made.arrays)


def test_a_killed_conversion_leaves_no_part_and_the_next_one_removes_its_rest(tmp_path):
    source, ours = write_source("folder", tmp_path, official(STAGE1)), tmp_path / "ours"
    code = f"""
import os, signal
from cogvideo_jax.models.cogvideo.convert import to_ours
real, calls = to_ours.to_our_layout, iter(range(1000))
def kill(*args):
    if next(calls) == 60:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(*args)
to_ours.to_our_layout = kill
to_ours.convert({str(source)!r}, {str(ours)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert [path.name for path in ours.iterdir()] == [".converting"]
    for path in ours.rglob("*"):
        if path.is_file():
            with pytest.raises(ValueError):
                load_weights(path)
    convert(source, ours)
    assert names(ours) == {"base.safetensors", "pipeline.json", "stage1.safetensors", "SHA256SUMS"}


@pytest.mark.parametrize("name", ["pipeline.json", "stage2_base.safetensors", "stage2.safetensors"])
def test_a_conversion_killed_before_any_of_its_files_has_its_name_runs_again(name, tmp_path):
    first, second = tiny.stage(), tiny.stage(cogvideo_stage=2)
    second.arrays["transformer.word_embeddings.weight"] += 1
    ours, sources = tmp_path / "ours", []
    for number, made in enumerate((first, second)):
        (tmp_path / str(number)).mkdir()
        sources.append(write_source("folder", tmp_path / str(number), made))
    convert(sources[0], ours)
    (ours / "pipeline.json").unlink()
    assert "pipeline.json does not exist" in next(check_digests(ours))
    code = f"""
import os, pathlib, signal
from cogvideo_jax.models.cogvideo.convert.to_ours import convert
real = pathlib.Path.replace
def kill(path, target):
    if path.name == {name!r}:
        os.kill(os.getpid(), signal.SIGKILL)
    return real(path, target)
pathlib.Path.replace = kill
convert({str(sources[1])!r}, {str(ours)!r})
"""
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.returncode == -signal.SIGKILL, done.stderr
    assert not (ours / "stage2.safetensors").exists()
    assert main(["convert", str(sources[1]), str(ours)]) == 0
    expected = {"base.safetensors", "pipeline.json", "stage1.safetensors", "SHA256SUMS"}
    assert names(ours) == expected | {"stage2_base.safetensors", "stage2.safetensors"}
    assert list(check_digests(ours)) == []
    assert_same_bits(read_sat(convert_back(ours, tmp_path / "back", part="stage2")), second.arrays)


def test_a_target_that_lacks_only_its_sampling_config_gets_it(tmp_path, capsys):
    source, ours = str(write_source("folder", tmp_path, tiny.stage())), tmp_path / "ours"
    convert(source, ours)
    before = {path.name: path.read_bytes() for path in ours.iterdir()}
    (ours / "pipeline.json").unlink()
    assert main(["convert", source, str(ours)]) == 0
    assert {path.name: path.read_bytes() for path in ours.iterdir()} == before
    (ours / "pipeline.json").unlink()
    assert main(["convert", source, str(ours), "--part", "stage1", "--heads", "4"]) == 2
    assert "stage1.safetensors exists" in capsys.readouterr().err


@pytest.mark.parametrize("source", ["folder", "zip", "model"])
def test_a_full_disk_is_told_in_one_sentence_and_leaves_nothing(source, tmp_path, capsys):
    made = DEMO_WEIGHTS / "text.model" if source == "model" else write_source(source, tmp_path, official(STAGE1))
    arguments = ["convert", str(made), str(tmp_path / "new" / "ours")]
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, limits[1]))
    try:
        assert main(arguments) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "cannot be written: File too large" in error
    assert not (tmp_path / "new").exists()
    assert main(arguments) == 0


@pytest.mark.parametrize("name", ["back", "back.pt", "back.safetensors"])
def test_a_stopped_export_leaves_nothing(name, tmp_path, monkeypatch):
    convert(write_source("folder", tmp_path, official(STAGE1)), tmp_path / "ours")
    before = set(tmp_path.iterdir())
    with monkeypatch.context() as patch:
        stop_at(patch, to_official, "read_leaf", 50, KeyboardInterrupt())
        with pytest.raises(KeyboardInterrupt):
            convert_back(tmp_path / "ours", tmp_path / name, part="stage1")
    assert set(tmp_path.iterdir()) == before
    with pytest.raises(UserError, match=r"has '.*' already"):
        convert_back(tmp_path / "ours", tmp_path / "ours", part="stage1")


def test_two_conversions_into_one_target_do_not_meet(tmp_path):
    source, ours = write_source("folder", tmp_path, official(STAGE1)), tmp_path / "ours"
    ours.mkdir()
    handle = os.open(ours, os.O_RDONLY)
    fcntl.flock(handle, fcntl.LOCK_EX)
    with pytest.raises(ValueError, match="another process is writing"):
        convert(source, ours)
    os.close(handle)
    convert(source, ours)


def test_too_little_space_is_said_before_anything_is_written(tmp_path, monkeypatch):
    source = write_source("zip", tmp_path, official(STAGE1))
    monkeypatch.setattr("shutil.disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(ValueError, match="MB free"):
        convert(source, tmp_path / "ours", part="stage1")
    assert not (tmp_path / "ours").exists()
