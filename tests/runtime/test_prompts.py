"""Files of prompts."""

import os

import pytest

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.prompts import read_prompts


def test_every_line_with_words_is_a_prompt(tmp_path):
    (tmp_path / "a.txt").write_bytes("\ufeffa ball\r\n\n  红球 \n".encode())
    assert read_prompts(tmp_path / "a.txt") == ["a ball", "红球"]


@pytest.mark.parametrize(
    "content, words",
    [
        (b"\n \n", "no line with a prompt"),
        ("a ball".encode("utf-16"), "not UTF-8 text: byte 0"),
        (b"caf\xe9", "not UTF-8 text: byte 3"),
        (b"a\0b", "zero byte"),
    ],
)
def test_what_is_no_text_is_refused(tmp_path, content, words):
    (tmp_path / "a.txt").write_bytes(content)
    with pytest.raises(UserError, match=words):
        read_prompts(tmp_path / "a.txt")


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
def test_what_is_no_file_is_refused(tmp_path, make):
    make(tmp_path / "a.txt")
    with pytest.raises(UserError, match=r"not a regular file|Is a directory"):
        read_prompts(tmp_path / "a.txt")
    with pytest.raises(UserError, match="does not exist"):
        read_prompts(tmp_path / "none.txt")
