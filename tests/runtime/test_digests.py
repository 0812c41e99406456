"""SHA256SUMS: noted as files are added, read by us and by `sha256sum`."""

import shutil
import subprocess

import pytest

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.digests import check_digests, forget_digests, note_digests, read_digests


@pytest.fixture
def folder(tmp_path):
    for name in ("b.bin", "红 a.txt"):
        (tmp_path / name).write_text(name)
    note_digests(tmp_path)
    return tmp_path


def test_a_folder_that_is_as_it_was_has_no_damage(folder):
    assert list(check_digests(folder)) == []
    note_digests(folder)
    assert (folder / "SHA256SUMS").read_text().count("\n") == 2


@pytest.mark.skipif(shutil.which("sha256sum") is None, reason="no sha256sum")
def test_sha256sum_reads_it(folder):
    subprocess.run(["sha256sum", "--check", "--strict", "--quiet", "SHA256SUMS"], cwd=folder, check=True)


def test_each_file_that_changed_or_is_gone_is_named(folder):
    (folder / "b.bin").write_text("B.bin")
    (folder / "红 a.txt").unlink()
    changed, gone = check_digests(folder)
    assert "b.bin has changed" in changed and "红 a.txt does not exist" in gone


def test_digests_are_added_kept_and_dropped_but_never_changed(folder):
    forget_digests(folder, ["none"])
    before = read_digests(folder)
    (folder / "b.bin").write_text("B.bin")
    (folder / "c.bin").write_text("c")
    (folder / "红 a.txt").unlink()
    note_digests(folder)
    assert read_digests(folder).keys() == {"b.bin", "c.bin"} and read_digests(folder)["b.bin"] == before["b.bin"]
    forget_digests(folder, ["b.bin"])
    assert read_digests(folder).keys() == {"c.bin"}
    note_digests(folder)
    assert list(check_digests(folder)) == [] and read_digests(folder)["b.bin"] != before["b.bin"]


def test_a_folder_without_digests_has_nothing_to_compare(tmp_path):
    assert list(check_digests(tmp_path)) == []


@pytest.mark.parametrize("content", [b"", b"\xff", b"0" * 64, b"0" * 64 + b"  ../a", b"abc  b.bin"])
def test_damaged_digests_are_refused(folder, content):
    (folder / "SHA256SUMS").write_bytes(content)
    with pytest.raises(UserError, match="SHA256SUMS is damaged"):
        list(check_digests(folder))
