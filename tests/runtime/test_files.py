"""Input is opened with care, output is whole or absent, and nothing that exists is lost."""

import multiprocessing
import os
import resource
import signal
import stat
import time

import pytest

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime import files
from cogvideo_jax.runtime.files import held, open_input, read_bytes, require_free, whole_file, whole_folder, write_text


def names(folder) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("kind", ["missing", "folder", "pipe", "device", "link to a device", "large", "null byte"])
def test_what_is_no_small_regular_file_is_refused_at_once(tmp_path, kind):
    path = tmp_path / "file"
    if kind == "folder":
        path.mkdir()
    elif kind == "pipe":
        os.mkfifo(path)
    elif kind == "device":
        path = "/dev/zero"
    elif kind == "link to a device":
        path.symlink_to("/dev/zero")
    elif kind == "large":
        path.touch()
        os.truncate(path, 2**40)
    elif kind == "null byte":
        path = tmp_path / "a\0b"
    begun = time.monotonic()
    with pytest.raises(UserError, match=r"file|expected|null byte"):
        read_bytes(path)
    assert time.monotonic() - begun < 1


def test_a_file_is_read_up_to_its_limit(tmp_path):
    (tmp_path / "a").write_bytes(b"1234")
    assert read_bytes(tmp_path / "a", limit=4) == b"1234"
    with pytest.raises(UserError, match="has 4 bytes; at most 3"), open_input(tmp_path / "a", limit=3):
        pass


def test_a_file_gets_its_name_when_it_is_whole(tmp_path):
    path = tmp_path / "new" / "a.txt"
    with whole_file(path) as draft:
        draft.write_text("whole")
        assert not path.exists()
    assert path.read_text() == "whole" and names(path.parent) == ["a.txt"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o666 & ~_umask()


def _umask() -> int:
    now = os.umask(0)
    os.umask(now)
    return now


@pytest.mark.parametrize("error", [KeyboardInterrupt, OSError(28, "No space left on device"), ValueError])
def test_a_failed_write_leaves_what_was_there(tmp_path, error):
    path = tmp_path / "a.txt"
    path.write_text("old")
    with pytest.raises(UserError if isinstance(error, OSError) else error), whole_file(path, replace=True) as draft:
        draft.write_text("ne")
        raise error
    assert path.read_text() == "old" and names(tmp_path) == ["a.txt"]


def test_a_full_disk_is_a_sentence(tmp_path):
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    ignored = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (1000, limits[1]))
    try:
        with pytest.raises(UserError, match=r"a.txt cannot be written: File too large"):
            write_text(tmp_path / "a.txt", "x" * 2000)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, ignored)
    assert names(tmp_path) == []


def test_nothing_is_replaced_unless_asked(tmp_path):
    path = tmp_path / "a.txt"
    path.write_text("old")
    for check in (lambda: write_text(path, "new"), lambda: require_free(path)):
        with pytest.raises(UserError, match=r"exists; .*--force"):
            check()
    assert path.read_text() == "old"
    write_text(path, "new", replace=True)
    assert path.read_text() == "new"


def test_a_link_is_replaced_and_never_followed(tmp_path):
    (tmp_path / "elsewhere").write_text("precious")
    (tmp_path / "a.txt").symlink_to(tmp_path / "elsewhere")
    (tmp_path / "dangling").symlink_to(tmp_path / "nothing")
    for name in ("a.txt", "dangling"):
        with pytest.raises(UserError, match="exists"):
            write_text(tmp_path / name, "new")
        write_text(tmp_path / name, "new", replace=True)
        assert not (tmp_path / name).is_symlink() and (tmp_path / name).read_text() == "new"
    assert (tmp_path / "elsewhere").read_text() == "precious" and not (tmp_path / "nothing").exists()
    (tmp_path / ".b.txt.part").symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UserError, match="cannot be written"):
        write_text(tmp_path / "b.txt", "new")
    assert (tmp_path / "elsewhere").read_text() == "precious"


@pytest.mark.parametrize("name", ["x" * 250, "红" * 90, "a\0b"])
def test_names_that_no_disk_takes_are_refused_before_work(tmp_path, name):
    with pytest.raises(UserError, match="no name of a file"):
        require_free(tmp_path / name)


def test_a_folder_in_the_way_is_named(tmp_path):
    with pytest.raises(UserError, match="is a folder"):
        write_text(tmp_path, "new", replace=True)


def test_what_a_kill_has_left_is_written_over(tmp_path):
    (tmp_path / ".a.txt.part").write_text("half of something longer")
    write_text(tmp_path / "a.txt", "new")
    assert (tmp_path / "a.txt").read_text() == "new" and names(tmp_path) == ["a.txt"]


def _hold(path, ready, go_on) -> None:
    with held(path) if path.is_dir() else whole_file(path) as draft:
        if draft is not None:
            draft.write_text("first")
        ready.set()
        go_on.wait()


@pytest.mark.parametrize("what", ["file", "folder"])
def test_the_second_of_two_writers_is_refused_and_the_first_loses_nothing(tmp_path, what):
    path = tmp_path if what == "folder" else tmp_path / "a.txt"
    context = multiprocessing.get_context("spawn")
    ready, go_on = context.Event(), context.Event()
    first = context.Process(target=_hold, args=(path, ready, go_on))
    first.start()
    assert ready.wait(60)
    with (
        pytest.raises(UserError, match="another process is writing"),
        held(path) if what == "folder" else whole_file(path),
    ):
        pass
    go_on.set()
    first.join()
    assert first.exitcode == 0
    assert what == "folder" or path.read_text() == "first"
    with held(tmp_path):
        pass


def is_ours(name: str) -> bool:
    return name.endswith(".bin")


def test_a_folder_is_whole_or_absent(tmp_path):
    with whole_folder(tmp_path / "out", ours=is_ours) as draft:
        (draft / "a.bin").write_text("1")
        assert not (tmp_path / "out").exists()
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["a.bin"]
    with (
        pytest.raises(UserError, match=r"has 'a.bin' already; .*--force"),
        whole_folder(tmp_path / "out", ours=is_ours),
    ):
        pass
    with pytest.raises(RuntimeError), whole_folder(tmp_path / "out", replace=True, ours=is_ours) as draft:
        raise RuntimeError
    assert names(tmp_path) == ["out"] and (tmp_path / "out" / "a.bin").read_text() == "1"
    with whole_folder(tmp_path / "out", replace=True, ours=is_ours) as draft:
        (draft / "b.bin").write_text("2")
    assert names(tmp_path) == ["out"] and names(tmp_path / "out") == ["b.bin"]


def test_a_folder_with_files_of_others_is_never_replaced(tmp_path):
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "thesis.txt").write_text("years of work")
    with pytest.raises(UserError, match=r"thesis.txt"), whole_folder(tmp_path / "out", replace=True, ours=is_ours):
        pass
    assert (tmp_path / "out" / "thesis.txt").read_text() == "years of work"


def test_a_kill_between_the_two_names_of_a_folder_is_mended(tmp_path):
    (tmp_path / ".out.old").mkdir()
    (tmp_path / ".out.old" / "a.bin").write_text("1")
    with pytest.raises(UserError, match="already"), whole_folder(tmp_path / "out", ours=is_ours):
        pass
    assert (tmp_path / "out" / "a.bin").read_text() == "1"


def test_a_disk_without_locks_is_said_and_used(tmp_path, monkeypatch, caplog):
    def refuse(handle, kind):
        raise OSError(95, "Operation not supported")

    monkeypatch.setattr(files.fcntl, "flock", refuse)
    with caplog.at_level("WARNING"), held(tmp_path):
        pass
    write_text(tmp_path / "a.txt", "new")
    assert "no locks" in caplog.text and (tmp_path / "a.txt").read_text() == "new"
