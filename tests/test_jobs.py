"""Where videos go: every suffix has one meaning, and it is known before the work."""

import pytest

from cogvideo_jax.cli.main import main
from cogvideo_jax.cli.options import CLIPS
from cogvideo_jax.errors import UserError
from cogvideo_jax.jobs import files_of, names_file, plan_jobs


@pytest.mark.parametrize(
    "out, file", [("a.mp4", True), ("A.MP4", True), ("a.png", True), ("videos", False), ("v1.0", False)]
)
def test_a_suffix_of_media_names_a_file_and_all_else_a_folder(out, file):
    assert names_file(out, CLIPS) == file


@pytest.mark.parametrize("out", ["clip.webm", "clip.MOV", "clip.jpg", "clip.keyframes"])
def test_formats_that_are_not_written_are_refused(out, tmp_path):
    with pytest.raises(UserError, match=r"written as .mp4 or .gif or .png, not as"):
        plan_jobs(["a"], num=1, out=tmp_path / out, formats=[".mp4"], allowed=CLIPS)
    assert not list(tmp_path.iterdir())


def test_a_file_keeps_the_name_that_was_given(tmp_path):
    assert files_of(tmp_path / "CLIP.MP4", [".mp4", ".gif"], key_frames=False) == [
        tmp_path / "CLIP.MP4",
        tmp_path / "CLIP.gif",
    ]


def refused(capsys, *arguments) -> str:
    """The sentence of a command that ends before any work."""
    assert main(["generate", *map(str, arguments)]) == 2
    return capsys.readouterr().err


def test_what_cannot_be_is_refused_before_weights_are_opened(tmp_path, capsys):
    out = tmp_path / "a"
    assert "not as .mp4" in refused(capsys, "a ball", "--image", "--out", tmp_path / "b.mp4")
    assert "not as .keyframes" in refused(capsys, "a ball", "--out", tmp_path / "b.keyframes")
    assert "--tensor must be at least 1" in refused(capsys, "a ball", "--tensor", "0", "--out", out)
    for scale in ("nan", "inf", "-1"):
        assert "guidance" in refused(capsys, "a ball", "--guidance", scale, "--out", out)
    assert "seeds[0]" in refused(capsys, "a ball", "--seed", 2**64, "--out", out)
    assert "Unicode" in refused(capsys, "a \udcff ball", "--out", out)
