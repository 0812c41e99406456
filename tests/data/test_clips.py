"""Folders of videos: read at one rate and size; damaged rows are skipped and named."""

import json
import os

import numpy as np
import pytest
from PIL import Image

from cogvideo_jax.data import labelled
from cogvideo_jax.data.clips import ReadableClips
from cogvideo_jax.data.folder import FolderSource
from cogvideo_jax.data.sources import open_source
from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.media import write_gif, write_mp4


def write_rows(folder, rows):
    lines = [row if isinstance(row, str) else json.dumps(row, ensure_ascii=False) for row in rows]
    (folder / "captions.jsonl").write_text("\n".join(lines), encoding="utf-8")


def grey_clip(frames, size=32):
    """Frame t is grey of value 6 t."""
    return np.broadcast_to(np.arange(frames, dtype=np.uint8)[:, None, None, None] * 6, (frames, size, size, 3))


def test_mp4_gif_and_animated_webp_are_read_at_one_rate_and_size(tmp_path):
    write_mp4(tmp_path / "a.mp4", grey_clip(32), fps=16)
    (tmp_path / "sub").mkdir()
    write_gif(tmp_path / "sub" / "b.gif", grey_clip(16), fps=8)
    pictures = [Image.new("RGBA", (48, 32), (255, 0, 0, 0)) for _ in range(15)]
    pictures += [Image.new("RGBA", (48, 32), (255, 0, 0, 255))]
    pictures[0].save(tmp_path / "c.webp", save_all=True, append_images=pictures[1:], duration=125, lossless=True)
    files = ["a.mp4", "sub/b.gif", "c.webp"]
    write_rows(tmp_path, [{"file": file, "text": [file, "视频"]} for file in files])
    source = FolderSource(tmp_path, size=16, fps=8.0)
    a, b, c = source
    assert [len(clip.frames) for clip in (a, b, c)] == [16, 16, 16]
    assert all(clip.frames.shape[1:] == (16, 16, 3) and clip.fps == 8.0 for clip in (a, b, c))
    assert a.texts == ("a.mp4", "视频") and b.name == "sub/b.gif"
    np.testing.assert_allclose(a.frames.mean((1, 2, 3)), np.arange(16) * 12, atol=3)
    np.testing.assert_allclose(b.frames.mean((1, 2, 3)), np.arange(16) * 6, atol=3)
    assert (c.frames[0] == 255).all() and (c.frames[-1] == [255, 0, 0]).all()  # transparent is white
    assert source.skipped == []


def test_damaged_rows_and_files_are_skipped_and_named(tmp_path):
    write_gif(tmp_path / "good.gif", grey_clip(8), fps=8)
    write_gif(tmp_path / "short.gif", grey_clip(3), fps=8)
    write_mp4(tmp_path / "whole.mp4", grey_clip(16), fps=8)
    (tmp_path / "half.mp4").write_bytes((tmp_path / "whole.mp4").read_bytes()[:600])
    (tmp_path / "half.webp").write_bytes(b"RIFF\x10\0\0\0WEBPVP8X")
    (tmp_path / "text.mp4").write_text("no video")
    (tmp_path.parent / "outside.gif").write_bytes((tmp_path / "good.gif").read_bytes())
    write_rows(
        tmp_path,
        [
            {"file": "good.gif", "text": "fine"},
            '{"file": "good.gif", ',
            {"file": "good.gif"},
            {"text": "no file"},
            ["good.gif", "text"],
            {"file": "gone.mp4", "text": "x"},
            {"file": "../outside.gif", "text": "x"},
            {"file": str(tmp_path / "good.gif"), "text": "x"},
            {"file": "good.gif", "text": ""},
            {"file": "good.gif", "text": [1]},
            {"file": ".", "text": "x"},
            "",
            {"file": "short.gif", "text": "x"},
            {"file": "half.mp4", "text": "x"},
            {"file": "half.webp", "text": "x"},
            {"file": "text.mp4", "text": "x"},
        ],
    )
    source = FolderSource(tmp_path, size=16)
    assert len(source.skipped) == 10  # bad rows are known at once
    assert [clip.texts for clip in source] == [("fine",)]
    reasons = dict(source.skipped)
    assert len(reasons) == 14
    assert reasons["captions.jsonl line 2"] == "not a line of JSON"
    assert "must stay inside" in reasons["captions.jsonl line 7"]
    assert reasons["short.gif"].startswith("only 3 frames")
    assert "cannot read video" in reasons["half.mp4"]
    assert not any("\n" in reason for reason in reasons.values())


def test_a_folder_without_captions_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"no readable captions\.jsonl"):
        FolderSource(tmp_path, size=16)


def test_a_folder_without_a_usable_row_is_refused_with_the_first_reason(tmp_path):
    write_rows(tmp_path, [{"file": "gone.mp4", "text": "x"}])
    with pytest.raises(ValueError, match=r"no usable row .*there is no file gone\.mp4"):
        FolderSource(tmp_path, size=16)


@pytest.mark.parametrize(
    "table, file",
    [
        ("file,text\na/b.gif,a lion\n", "a/b.gif"),
        ("videoid,contentUrl,duration,page_dir,name\n12,x,PT1S,a_b,a lion\n", "a_b/12.mp4"),
        ("videoid,name\n12,a lion\n", "12.mp4"),
        ("label,youtube_id,time_start,time_end,split\na lion,xYz,3,13,train\n", "a lion/xYz_000003_000013.mp4"),
        ("label,youtube_id,time_start,time_end,split\na lion,xYz,3,13,train\n", "xYz_000003_000013.mp4"),
        ("label,youtube_id,time_start,time_end,split\na lion,xYz,3.0,13.0,train\n", "a_lion/xYz_000003_000013.webm"),
        ("label,youtube_id,time_start,time_end,split\na lion,xYz,3,13,val\n", "val/a_lion/xYz_000003_000013.mp4"),
        ("videoid,name,page_dir\n12.0,a lion,a_b\n", "videos/a_b/12.mkv"),
        ("file;text\na.gif;a lion\n", "a.gif"),
        (" File,TEXT\r\na.gif,a lion\r\n", "a.gif"),
    ],
)
def test_published_lists_of_videos_are_read(tmp_path, table, file):
    (tmp_path / "captions.csv").write_text(table)
    (tmp_path / file).parent.mkdir(parents=True, exist_ok=True)
    write_gif(tmp_path / "clip.gif", grey_clip(8), fps=8)
    (tmp_path / "clip.gif").rename(tmp_path / file)
    source = FolderSource(tmp_path, size=16)
    assert len(source) == 1 and source.name(0) == file


def test_a_list_of_which_no_video_is_there_says_which_names_were_looked_for(tmp_path):
    (tmp_path / "captions.csv").write_text("label,youtube_id,time_start,time_end\na lion,xYz,3,13\n")
    names = r"a lion/xYz_000003_000013\.mp4, a_lion/xYz_000003_000013\.mp4, .* other names"
    with pytest.raises(UserError, match=f"no usable row .*there is no file {names}"):
        FolderSource(tmp_path, size=16)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("name", ["captions.jsonl", "captions.csv"])
def test_lists_in_utf_8_and_utf_16_are_read(tmp_path, name, encoding):
    write_gif(tmp_path / "a.gif", grey_clip(8), fps=8)
    rows = {"captions.jsonl": '{"file": "a.gif", "text": "红色的球"}\n', "captions.csv": "file,text\na.gif,红色的球\n"}
    (tmp_path / name).write_bytes(rows[name].encode(encoding))
    assert list(FolderSource(tmp_path, size=16).captions()) == ["红色的球"]


def test_captions_are_plain_text_as_prompts_are(tmp_path):
    write_gif(tmp_path / "a.gif", grey_clip(8), fps=8)
    write_rows(
        tmp_path, [{"file": "a.gif", "text": "\ufeff a\u3000lion\u2019s \n day"}, {"file": "a.gif", "text": "\u200b"}]
    )
    source = FolderSource(tmp_path, size=16)
    assert list(source.captions()) == ["a lion's day"]
    assert source.skipped == [("captions.jsonl line 2", "it has no caption")]


GOOD_LINE = b'{"file": "a.gif", "text": "fine"}\n'


@pytest.mark.parametrize(
    "line, words",
    [
        (b'{"file": "' + b"a lion " * 60 + b'", "text": "x"}', "there is no file 'a lion a lion"),
        (b'{"file": "' + b"a/" * 3000 + b'b", "text": "x"}', "there is no file 'a/a/a"),
        (b'{"file": "a.gif", "text": "x\\ud83d"}', "not a line of JSON"),
        (b'{"file": "a.gif", "text": "caf\xe9"}', "bytes that are no text; save the list as UTF-8"),
        (b'{"file": "a.gif", "text": "\xed\xa0\xbd"}', "bytes that are no text"),
        (b"[" * 100_000, "not a line of JSON"),
    ],
)
def test_a_line_that_cannot_be_used_is_skipped_and_named(tmp_path, line, words):
    write_gif(tmp_path / "a.gif", grey_clip(8), fps=8)
    (tmp_path / "captions.jsonl").write_bytes(GOOD_LINE + line + b"\n" + GOOD_LINE)
    source = FolderSource(tmp_path, size=16)
    assert len(source) == 2
    [(place, reason)] = source.skipped
    assert place == "captions.jsonl line 2" and words in reason and len(reason) < 200


@pytest.mark.parametrize(
    "row, words",
    [
        (b"a.gif," + b"x" * 200_000, "field larger than field limit"),
        (b"a.gif,caf\xe9", "bytes that are no text"),
        (b"a.gif", "it has 1 fields for 2 columns"),
        (b"a.gif,a lion, drinking", "it has 3 fields for 2 columns; put captions with commas in quotes"),
        (b'a.gif,"a lion', "no row of a table"),
        (b'a.gif,"a "lion" drinks"', "no row of a table"),
    ],
)
def test_a_row_of_a_table_that_cannot_be_used_is_skipped_and_named(tmp_path, row, words):
    write_gif(tmp_path / "a.gif", grey_clip(8), fps=8)
    good = b'a.gif,"one, two\nthree"\na.gif,fine\n'
    for rows in (good + row + b"\n" + good, good + good + row):  # in the middle, and cut at the end
        (tmp_path / "captions.csv").write_bytes(b"file,text\n" + rows)
        source = FolderSource(tmp_path, size=16)
        assert list(source.captions()) == ["one, two three", "fine"] * 2
        [(place, reason)] = source.skipped
        assert words in reason and place.startswith("captions.csv line ")


def test_lists_that_are_no_files_are_refused(tmp_path):
    os.mkfifo(tmp_path / "captions.csv")
    with pytest.raises(UserError, match="not a regular file"):
        FolderSource(tmp_path, size=16)
    (tmp_path / "captions.jsonl").mkdir()
    with pytest.raises(UserError, match="not a regular file"):
        FolderSource(tmp_path, size=16)


def test_a_stamp_changes_with_the_video_and_its_captions(tmp_path):
    write_gif(tmp_path / "a.gif", grey_clip(8), fps=8)
    write_rows(tmp_path, [{"file": "a.gif", "text": "a lion"}])
    source = FolderSource(tmp_path, size=16)
    stamps = {source.stamp(0)}
    write_rows(tmp_path, [{"file": "a.gif", "text": "a cat"}])
    stamps.add(FolderSource(tmp_path, size=16).stamp(0))
    os.utime(tmp_path / "a.gif", (1, 1))
    stamps.add(source.stamp(0))
    write_gif(tmp_path / "a.gif", grey_clip(9), fps=8, replace=True)
    stamps.add(source.stamp(0))
    assert len(stamps) == 4
    (tmp_path / "a.gif").unlink()
    with pytest.raises(UserError, match=r"a\.gif was there, and now: No such file"):
        source.stamp(0)


def test_endless_reading_counts_and_names_what_it_skips(tmp_path, caplog):
    write_gif(tmp_path / "a.gif", grey_clip(8), fps=8)
    write_gif(tmp_path / "short.gif", grey_clip(3), fps=8)
    write_rows(tmp_path, [{"file": name, "text": "x"} for name in ("a.gif", "short.gif", "none.gif")])
    source = FolderSource(tmp_path, size=16)
    clips = ReadableClips(source, memory=0)
    assert [clips[row].name for row in (1, 0, 1)] == ["a.gif"] * 3
    assert caplog.text.count("skipped short.gif: only 3 frames") == 1
    assert [name for name, _ in source.skipped] == ["captions.jsonl line 3", "short.gif"]


def test_damaged_rows_of_a_table_are_named(tmp_path):
    write_gif(tmp_path / "a.gif", grey_clip(8), fps=8)
    (tmp_path / "captions.csv").write_text("file,text\na.gif,a lion\na.gif,\n../a.gif,a lion\nnone.gif,a lion\n")
    source = FolderSource(tmp_path, size=16)
    assert len(source) == 1
    assert source.skipped == [
        ("captions.csv line 3", "it has no caption"),
        ("captions.csv line 4", "the file name '../a.gif' must stay inside the folder"),
        ("captions.csv line 5", "there is no file none.gif"),
    ]
    (tmp_path / "captions.csv").write_text("name,words\na.gif,a lion\n")
    with pytest.raises(ValueError, match="none of the columns file, videoid and youtube_id"):
        FolderSource(tmp_path, size=16)


def test_a_labelled_set_says_what_it_needs(tmp_path, monkeypatch):
    monkeypatch.setattr(labelled.importlib.util, "find_spec", lambda name: None)
    with pytest.raises(ValueError, match=r'ucf101 is decoded by tensorflow, .* pip install "\.\[tfds\]"'):
        open_source("ucf101", size=64, data_dir=tmp_path, train_clips=1)


def test_labels_become_words():
    assert [labelled.words_of(label) for label in ("ApplyEyeMakeup", "YoYo", "TaiChi", "HandstandPushups")] == [
        "apply eye makeup",
        "yo yo",
        "tai chi",
        "handstand pushups",
    ]


def test_no_row_of_whatever_kind_stops_the_others(tmp_path):
    write_gif(tmp_path / "good.gif", grey_clip(8), fps=8)
    (tmp_path / "captions.jsonl").write_bytes(
        b'\xef\xbb\xbf{"file": "good.gif", "text": "fine"}\n'  # with the mark that some editors write
        + b"[" * 100_000
        + b'\n{"file": "'
        + b"a" * 5000
        + b'", "text": "a name that no system takes"}\n{"file": "\xff.gif", "text": "x"}\n{"file": {}, "text": "x"}\n'
    )
    source = FolderSource(tmp_path, size=16)
    assert len(source) == 1 and len(source.skipped) == 4
    assert dict(source.skipped)["captions.jsonl line 5"] == "the line: file is {}; it should be a text"
    (tmp_path / "captions.jsonl").unlink()
    (tmp_path / "captions.csv").write_text("label,youtube_id,time_start,time_end\na,b,1e400,2\na lion,xYz\n")
    with pytest.raises(ValueError, match="line 2: times must be whole seconds"):
        FolderSource(tmp_path, size=16)


def test_a_line_that_is_no_caption_is_skipped_and_one_without_an_end_refused(tmp_path):
    write_gif(tmp_path / "a.gif", grey_clip(8), fps=8)
    row = '{"file": "a.gif", "text": "a lion"}'
    write_rows(tmp_path, [row, "x" * (2 << 20), row])
    source = FolderSource(tmp_path, size=16)
    assert len(source) == 2
    assert source.skipped == [("captions.jsonl line 2", "it has 1048576 characters or more, which is no caption")]
    with (tmp_path / "captions.jsonl").open("r+b") as file:
        file.truncate(1 << 40)
    with pytest.raises(ValueError, match="line 3 has no end"):
        FolderSource(tmp_path, size=16)
