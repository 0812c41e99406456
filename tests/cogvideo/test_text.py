"""Text ids: SentencePiece behind the image codes, phrases and padding."""

import pytest

from cogvideo_jax.models.cogvideo.text import (
    TextTokenizer,
    clip_text_ids,
    duration_phrase,
    fit_text_model,
    left_pad_text,
)

SENTENCES = ["a red ball jumps", "the blue ball jumps", "红色的球跳", "蓝色的球跳", "4.0秒", "视频"] * 20


@pytest.fixture(scope="module")
def model() -> bytes:
    return fit_text_model(SENTENCES, pieces=350)


@pytest.fixture(scope="module")
def text(model) -> TextTokenizer:
    return TextTokenizer(model, image_codes=1000)


def test_text_ids_stand_behind_the_image_codes(text):
    ids = text.encode("a red ball jumps")
    assert min(ids) >= 1000 and max(ids) < text.vocabulary.boi == 1000 + text.vocabulary.text_pieces


def test_text_survives_the_round_trip_in_both_languages(text):
    for sentence in ("a red ball jumps", "红色的球跳"):
        assert text.decode([text.pad_id, *text.encode(sentence)]).strip() == sentence


def test_han_characters_are_never_joined(text):
    assert len(text.encode("红色的球跳")) >= 5


def test_capitals_do_not_matter(text):
    assert text.encode("A RED Ball") == text.encode("a red ball")


def test_unknown_signs_are_named(text):
    assert text.spelled_characters("a red 狗") == ["狗"]


def test_words_that_no_caption_had_are_named(text):
    assert text.out_of_vocabulary("a red ball jumps") == []
    assert text.out_of_vocabulary("红色的球") == []
    assert text.out_of_vocabulary("a red walrus, 狗") == ["walrus", "狗"]


def test_clip_text_is_phrase_newline_caption(text):
    ids = clip_text_ids("a red ball", fps=1.0, text=text)
    assert ids == [*text.encode("4.0秒"), text.newline_id, *text.encode("a red ball")]


@pytest.mark.parametrize("fps, phrase", [(1, "4.0秒"), (2, "2.0秒"), (4, "1.0秒"), (8, "0.5秒"), (0.25, "16.0秒")])
def test_the_phrase_states_the_seconds_of_four_intervals(fps, phrase):
    assert duration_phrase(fps) == phrase


def test_a_frame_rate_of_zero_is_refused():
    with pytest.raises(ValueError, match="positive"):
        duration_phrase(0)


def test_text_is_padded_on_the_left_and_cut_on_the_right():
    ids, mask = left_pad_text([7, 8], length=4, pad_id=0)
    assert ids.tolist() == [0, 0, 7, 8] and mask.tolist() == [False, False, True, True]
    ids, mask = left_pad_text([5, 6, 7, 8, 9], length=4, pad_id=0)
    assert ids.tolist() == [5, 6, 7, 8] and mask.all()


def test_the_same_sentences_give_the_same_model(model):
    assert fit_text_model(SENTENCES, pieces=350) == model


def test_what_is_no_text_model_is_refused(tmp_path):
    with pytest.raises(ValueError, match="not a SentencePiece model"):
        TextTokenizer(b"no model", image_codes=10)
    with pytest.raises(ValueError, match="does not exist"):
        TextTokenizer.from_file(tmp_path / "none.model", image_codes=10)
