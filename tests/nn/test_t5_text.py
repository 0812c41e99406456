"""T5's tokens: end of text, pads, truncation, and files that are no models of T5."""

import io
import os

import numpy as np
import pytest
import sentencepiece

from cogvideo_jax.errors import UserError
from cogvideo_jax.nn.t5_text import EOS, LARGEST_FILE, PAD, T5Text
from tests.cogvideox.goldens import load

SENTENCES = ["a red ball jumps over the lazy dog", "the blue ball rolls", "A panda plays the guitar, softly."] * 20
PROMPT = "the red panda jumps"


def fitted(**ids: int) -> bytes:
    """A tiny model with these special ids."""
    model = io.BytesIO()
    sentencepiece.SentencePieceTrainer.Train(
        sentence_iterator=iter(SENTENCES),
        model_writer=model,
        model_type="unigram",
        vocab_size=60,
        hard_vocab_limit=False,
        num_threads=1,
        minloglevel=2,
        **ids,
    )
    return model.getvalue()


@pytest.fixture(scope="module")
def model() -> bytes:
    return fitted(pad_id=0, eos_id=1, unk_id=2, bos_id=-1)


@pytest.fixture(scope="module")
def text(model, tmp_path_factory) -> T5Text:
    path = tmp_path_factory.mktemp("tokenizer") / "spiece.model"
    path.write_bytes(model)
    return T5Text.from_file(path)


def test_a_prompt_is_its_pieces_and_an_end(text, model):
    pieces = sentencepiece.SentencePieceProcessor(model_proto=model)
    ids = text.encode(PROMPT)
    assert ids == [*pieces.EncodeAsIds(PROMPT), EOS]
    assert pieces.DecodeIds(ids[:-1]) == PROMPT
    assert min(ids[:-1]) > 2 and max(ids) < text.pieces


def test_a_row_is_padded_on_the_right(text):
    ids, length = text.encode(PROMPT), len(text.encode(PROMPT)) + 3
    rows = text.padded(["", PROMPT], length)
    assert rows.dtype == np.int32
    assert rows.tolist() == [[EOS] + [PAD] * (length - 1), [*ids, PAD, PAD, PAD]]


def test_the_empty_prompt_is_that_of_the_goldens(text):
    _, arrays = load("x_pipeline_t2v")
    empty = arrays["input_ids"][:1]
    np.testing.assert_array_equal(text.padded([""], empty.shape[1]), empty)


@pytest.mark.parametrize("missing", [1, 2, 5])
def test_a_longer_prompt_keeps_its_end(text, missing):
    ids = text.encode(PROMPT)
    length = len(ids) - missing
    assert text.padded([PROMPT], length).tolist() == [[*ids[: length - 1], EOS]]
    assert text.cut(PROMPT, length) == missing


def test_a_prompt_that_fits_is_not_cut(text):
    length = len(text.encode(PROMPT))
    assert text.padded([PROMPT], length).tolist() == [text.encode(PROMPT)]
    assert text.cut(PROMPT, length) == text.cut(PROMPT, length + 1) == text.cut("", 1) == 0


def test_no_room_for_an_end_is_refused(text):
    with pytest.raises(UserError, match="at least 1, got 0"):
        text.padded([PROMPT], 0)


def test_unknown_characters_are_piece_2(text):
    assert text.encode("狗")[-2:] == [2, EOS]


def test_white_space_at_the_ends_and_in_runs_does_not_matter(text):
    assert text.encode("  the red\t panda\n jumps ") == text.encode(PROMPT)


@pytest.mark.parametrize(
    "ids, found", [({"pad_id": 3, "eos_id": 1, "unk_id": 0, "bos_id": 2}, "3 and 1"), ({}, "-1 and 2")]
)
def test_a_model_with_other_special_ids_is_refused(ids, found):
    with pytest.raises(UserError, match=f"other.model is not a model of T5.* ids 0 and 1, not {found}"):
        T5Text(fitted(**ids), name="other.model")


@pytest.mark.parametrize("content", [b"", b"\0" * 100, b"not a model", b"\xff" * 5000])
def test_a_damaged_file_is_refused_in_one_sentence(tmp_path, content):
    path = tmp_path / "spiece.model"
    path.write_bytes(content)
    with pytest.raises(UserError, match=r"spiece\.model is not a") as caught:
        T5Text.from_file(path)
    assert "\n" not in str(caught.value)


def test_half_a_file_is_refused(tmp_path, model):
    path = tmp_path / "spiece.model"
    path.write_bytes(model[: len(model) // 2])
    with pytest.raises(UserError, match=r"spiece\.model is not a"):
        T5Text.from_file(path)


def test_what_is_no_small_regular_file_is_refused(tmp_path):
    large, pipe = tmp_path / "large.model", tmp_path / "pipe.model"
    with large.open("wb") as file:
        file.truncate(LARGEST_FILE + 1)
    os.mkfifo(pipe)
    for path, sentence in (
        (large, "at most"),
        (pipe, "not a regular file"),
        (tmp_path, "regular file|cannot be read"),
        (tmp_path / "none.model", "does not exist"),
    ):
        with pytest.raises(UserError, match=sentence):
            T5Text.from_file(path)
