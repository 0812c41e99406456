"""`cogvideo tokenize` and `cogvideo verify` on a user's own videos, with small weights."""

import json
import os

import numpy as np
import pytest

from cogvideo_jax.cli.main import main
from cogvideo_jax.models.cogvideo.text import TextTokenizer, fit_text_model
from cogvideo_jax.runtime.media import write_gif

HAN = [chr(0x4E00 + i) for i in range(900)]


def write_videos(folder, captions) -> None:
    """A short gif for every caption; one with the caption "broken" is none."""
    folder.mkdir(exist_ok=True)
    for number, caption in enumerate(captions):
        frames = np.full((6, 16, 16, 3), 20 * number + 10, np.uint8) + np.arange(6, dtype=np.uint8)[:, None, None, None]
        write_gif(folder / f"{number}.gif", frames, fps=8, replace=True)
        if caption == "broken":
            (folder / f"{number}.gif").write_bytes(b"no video")
    rows = [json.dumps({"file": f"{number}.gif", "text": caption}) for number, caption in enumerate(captions)]
    (folder / "captions.jsonl").write_text("\n".join(rows))


@pytest.fixture
def tokenize(weights, tmp_path):
    """arguments -> exit status of `cogvideo tokenize` of tmp_path/videos into tmp_path/cache."""
    fixed = ["--source", tmp_path / "videos", "--out", tmp_path / "cache", "--size", 16]
    fixed += ["--tokenizer", weights / "tokenizer.safetensors"]
    return lambda *arguments: main(["tokenize", *map(str, [*fixed, *arguments])])


@pytest.fixture
def other_model(tmp_path):
    (tmp_path / "other.model").write_bytes(fit_text_model(["a lion", "a cat"] * 20, pieces=300))
    return tmp_path / "other.model"


def text_of(folder) -> TextTokenizer:
    return TextTokenizer.from_file(folder / "cache" / "text.model", image_codes=32)


def test_what_is_skipped_is_counted_and_named_in_every_run(tokenize, tmp_path, capsys, caplog):
    write_videos(tmp_path / "videos", ["a lion", "broken"])
    for _ in range(2):
        caplog.clear()
        assert tokenize() == 0
        assert "1 clips in" in capsys.readouterr().out and "skipped 1: 1.gif: cannot read video" in caplog.text


def test_a_changed_caption_is_in_the_cache_after_the_next_run(tokenize, tmp_path, caplog):
    write_videos(tmp_path / "videos", ["a lion"])
    assert tokenize() == 0
    write_videos(tmp_path / "videos", ["a cat"])
    assert tokenize() == 0 and "made again: its videos or captions have changed" in caplog.text
    assert b"a cat" in (tmp_path / "cache" / "shard-00000.array_record").read_bytes()


def test_other_settings_are_refused_unless_forced(tokenize, tmp_path, capsys):
    write_videos(tmp_path / "videos", ["a lion"])
    assert tokenize() == 0
    assert tokenize("--size", 32) == 2 and "another source.size" in capsys.readouterr().err
    assert tokenize("--size", 32, "--force") == 0
    assert json.loads((tmp_path / "cache" / "meta.json").read_text())["grid"] == 8


@pytest.mark.parametrize("arguments", [[], ["--text-pieces", "50"]])
def test_a_text_model_has_a_piece_for_every_character(tokenize, tmp_path, caplog, arguments):
    write_videos(tmp_path / "videos", ["".join(HAN[start : start + 300]) for start in (0, 300, 600)])
    assert tokenize(*arguments) == 0
    assert "the captions have so many characters" in caplog.text
    assert text_of(tmp_path).spelled_characters("".join(HAN)) == []


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["--text-model", "none.model"], "none.model does not exist"),
        (["--text-model", __file__], "test_tokenize.py: the text model is not a SentencePiece model"),
        (["--text-pieces", "0"], "change --text-pieces"),
        (["--size", "18"], "not divisible"),
        (["--size", "0"], "sides of 1 to 8192 pixels, not 0"),
        (["--size", "1000000"], "sides of 1 to 8192 pixels"),
        (["--coarse-size", "12"], "whole factor"),
        (["--worker", "1"], "should look like 0/8"),
        (["--worker", "3/3"], "counted from 0"),
    ],
)
def test_what_cannot_end_well_is_refused_before_anything_is_written(tokenize, tmp_path, capsys, arguments, words):
    write_videos(tmp_path / "videos", ["a lion"])
    assert tokenize(*arguments) == 2 and words in capsys.readouterr().err
    assert not (tmp_path / "cache").exists()


def test_another_text_model_is_not_replaced_unless_forced(tokenize, tmp_path, other_model, capsys):
    write_videos(tmp_path / "videos", ["a lion"])
    assert tokenize() == 0
    fitted = (tmp_path / "cache" / "text.model").read_bytes()
    assert tokenize("--text-model", other_model) == 2 and "is another text model" in capsys.readouterr().err
    assert (tmp_path / "cache" / "text.model").read_bytes() == fitted
    assert tokenize("--text-model", other_model, "--force") == 0
    assert (tmp_path / "cache" / "text.model").read_bytes() == other_model.read_bytes()
    assert tokenize() == 0 and tokenize("--text-model", other_model) == 0


def test_a_damaged_text_model_is_named(tokenize, tmp_path, capsys):
    write_videos(tmp_path / "videos", ["a lion"])
    assert tokenize() == 0
    (tmp_path / "cache" / "text.model").write_bytes(b"half")
    assert tokenize() == 2 and "cache/text.model: the text model is not" in capsys.readouterr().err
    assert tokenize("--force") == 0


def test_a_list_that_is_no_file_does_not_hang(tokenize, tmp_path, capsys):
    (tmp_path / "videos").mkdir()
    os.mkfifo(tmp_path / "videos" / "captions.jsonl")
    assert tokenize() == 2 and "not a regular file" in capsys.readouterr().err
