"""The record of a folder of videos: what is noted is found again; a row that is no row is named."""

import json

import pytest

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.record import FILE, Record

ASKED = {"weights": "demo", "seed": 3, "fps": None, "guidance": 2.0, "gif": True, "int8": ["weights"]}


@pytest.fixture
def path(tmp_path):
    """The record of a folder with one finished video."""
    (tmp_path / "a.mp4").touch()
    Record(tmp_path / FILE, ASKED).add("a.mp4", prompt="红球", copy=0, files=["a.mp4"])
    return tmp_path / FILE


def test_a_video_is_there_if_it_was_made_in_the_same_way(path):
    assert Record(path, ASKED).has("a.mp4", prompt="红球", copy=0)
    assert not Record(path, ASKED).has("a.mp4", prompt="红球", copy=1)
    assert not Record(path, ASKED).has("a.mp4", prompt="蓝球", copy=0)
    assert not Record(path, ASKED | {"seed": 4}).has("a.mp4", prompt="红球", copy=0)
    (path.parent / "a.mp4").unlink()
    assert not Record(path, ASKED).has("a.mp4", prompt="红球", copy=0)


def test_a_file_that_was_cut_or_replaced_is_not_there(path):
    video = path.parent / "a.mp4"
    Record(path, ASKED | {"seed": 4}).add("a.mp4", prompt="红球", copy=0, files=["a.mp4"])
    assert not Record(path, ASKED).has("a.mp4", prompt="红球", copy=0)  # seed 4 took its place
    assert Record(path, ASKED | {"seed": 4}).has("a.mp4", prompt="红球", copy=0)
    video.write_bytes(b"cut")
    assert not Record(path, ASKED | {"seed": 4}).has("a.mp4", prompt="红球", copy=0)


def test_videos_of_other_weights_are_not_there(path):
    Record(path, ASKED, weights_digest="1").add("a.mp4", prompt="红球", copy=0, files=["a.mp4"])
    assert Record(path, ASKED, weights_digest="1").has("a.mp4", prompt="红球", copy=0)
    assert not Record(path, ASKED, weights_digest="2").has("a.mp4", prompt="红球", copy=0)


def test_rows_without_digests_hold_as_long_as_their_files_are_there(path):
    row = {"video": "b.mp4", "prompt": "b", "copy": 0, "files": ["a.mp4"], **ASKED}
    path.write_text(json.dumps(row) + "\n")
    assert not Record(path, ASKED, weights_digest="1").has("a.mp4", prompt="b", copy=0)
    path.write_text(json.dumps(row | {"files": ["b.mp4"]}) + "\n")
    (path.parent / "b.mp4").touch()
    assert Record(path, ASKED, weights_digest="1").has("b.mp4", prompt="b", copy=0)


def test_a_row_stays_valid_when_options_are_added_that_are_off(path):
    (path.parent / "new.mp4").touch()
    Record(path, ASKED).add("new.mp4", prompt="c", copy=0, files=["new.mp4"])
    later = ASKED | {"lora": [], "steps": None, "fancy": False}
    assert Record(path, later).has("new.mp4", prompt="c", copy=0)
    assert not Record(path, later | {"steps": 3}).has("new.mp4", prompt="c", copy=0)


def test_a_row_that_a_kill_has_cut_costs_only_its_video(path):
    with path.open("ab") as file:
        file.write('{"prompt": "红'.encode()[:-1])
    (path.parent / "b.mp4").touch()
    Record(path, ASKED).add("b.mp4", prompt="b", copy=0, files=["b.mp4"])
    for video, prompt in (("a.mp4", "红球"), ("b.mp4", "b")):
        assert Record(path, ASKED).has(video, prompt=prompt, copy=0)


@pytest.mark.parametrize(
    "row, words",
    [
        ("[1]", "line 2: it should be an object"),
        ("nonsense", "line 2 is not valid JSON"),
        ('{"video": "a"}', "line 2 lacks the key prompt"),
        ('{"video": "a", "prompt": "b", "copy": 0, "files": ["../a"]}', r"files\[0\] is '../a'"),
        ('{"video": "a", "prompt": "b", "copy": true, "files": ["a"]}', "copy is True"),
        ('{"video": "a", "prompt": "b", "copy": 0, "files": ["a"], "seed": {}}', "seed: it should be"),
    ],
)
def test_another_row_that_does_not_fit_is_named(path, row, words):
    with path.open("a") as file:
        file.write(row + "\n")
    with pytest.raises(UserError, match=words):
        Record(path, ASKED)


def test_a_prompt_by_itself_keeps_no_record(tmp_path):
    record = Record(None, ASKED)
    record.add("a.mp4", prompt="b", copy=0, files=["a.mp4"])
    assert not record.has("a.mp4", prompt="b", copy=0) and not list(tmp_path.iterdir())
