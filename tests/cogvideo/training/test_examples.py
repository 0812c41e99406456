"""Training examples: the right frames in the right slots behind the right words."""

import numpy as np
import pytest

from cogvideo_jax.data.cache import TokenClip
from cogvideo_jax.models.cogvideo.layout import base_layout, interpolation_layout, keyframe_layout
from cogvideo_jax.models.cogvideo.training import examples


class Letters:
    """A text tokenizer whose ids are code points."""

    newline_id = 1
    pad_id = 0

    def encode(self, text):
        return [ord(letter) for letter in text]


TEXT = Letters()
SIZES = {"text_length": 12, "grid": 2}


def clip(frames, texts=("lion",)):
    """Frame t holds the ids t, t, t, t."""
    return TokenClip(np.tile(np.arange(frames)[:, None], 4), 8.0, texts, "clip")


def words(example):
    ids = example["text"][example["text_mask"]]
    return "".join("\n" if i == TEXT.newline_id else chr(i) for i in ids)


def times(example):
    assert (example["frames"] == example["frames"][:, :1]).all()
    return example["frames"][:, 0].tolist()


def keyframes(source, *, seed=0, rates=(0.25, 0.5, 1, 2, 4, 8), text_dropout=0.0):
    rng = np.random.default_rng(seed)
    layout = keyframe_layout(**SIZES)
    return examples.keyframe_example(source, rng, text=TEXT, layout=layout, rates=rates, text_dropout=text_dropout)


def test_key_frames_of_a_four_second_clip_are_one_second_apart():
    example = keyframes(clip(33))
    assert times(example) == [0, 8, 16, 24, 32]
    assert words(example) == "4.0秒\nlion"
    assert example["frames"].dtype == np.int32 and example["text"].dtype == np.int32


def test_the_text_states_the_rate_that_was_taken():
    assert words(keyframes(clip(17))) == "2.0秒\nlion"
    assert words(keyframes(clip(33), rates=(2, 4))) == "2.0秒\nlion"


def test_key_frames_of_a_longer_clip_start_anywhere():
    assert {times(keyframes(clip(35), seed=seed))[0] for seed in range(40)} == {0, 1, 2}


def test_interpolation_puts_frames_of_odd_time_last():
    rng, rates = np.random.default_rng(0), set()
    layout = interpolation_layout(**SIZES)
    for _ in range(40):
        example = examples.interpolation_example(
            clip(33), rng, text=TEXT, layout=layout, rates=(2, 4, 8), tiled=False, text_dropout=0.0
        )
        first, third, fifth, second, fourth = times(example)
        step = second - first
        assert [third, fourth, fifth] == [first + 2 * step, first + 3 * step, first + 4 * step]
        assert words(example) == f"{step / 2:.1f}秒\nlion"
        rates.add(8 // step)
    assert rates == {2, 4, 8}


def test_tiled_windows_are_those_of_the_recursion_5_9_17_33():
    layout = interpolation_layout(**SIZES)
    drawn = [
        examples.interpolation_example(
            clip(33),
            np.random.default_rng(seed),
            text=TEXT,
            layout=layout,
            rates=(2, 4, 8),
            tiled=True,
            text_dropout=0.0,
        )
        for seed in range(200)
    ]
    windows = {tuple(times(example)[:3]) for example in drawn}
    assert windows == {(s, s + k, s + 2 * k) for k in (8, 4, 2) for s in range(0, 32, 2 * k)}


def base(seed, *, first=0.0, moment=0.0, moments=8.0, rates=()):
    return examples.base_example(
        clip(9),
        np.random.default_rng(seed),
        text=TEXT,
        layout=base_layout(text_length=24, grid=2),
        first_frame_suffix=" 高清",
        first_frame_probability=first,
        moment_probability=moment,
        moments_a_second=moments,
        rates=rates,
        text_dropout=0.0,
    )


def test_a_base_example_marks_only_the_first_frame():
    assert {(words(base(seed, first=1.0)), times(base(seed, first=1.0))[0]) for seed in range(20)} == {("lion 高清", 0)}
    assert {words(base(seed)) for seed in range(20)} == {"lion"}
    assert len({times(base(seed))[0] for seed in range(60)}) == 9


def test_a_base_example_may_say_which_moment_after_the_first_it_shows():
    drawn = [base(seed, moment=1.0) for seed in range(60)]
    assert {times(example)[0] for example in drawn} == set(range(1, 9))
    assert all(words(example) == f"lion {times(example)[0] / 8:.1f}秒" for example in drawn)


def test_moments_are_those_of_the_rate_asked_for():
    drawn = [base(seed, moment=1.0, moments=2.0) for seed in range(60)]
    assert {(times(example)[0], words(example)) for example in drawn} == {(4, "lion 0.5秒"), (8, "lion 1.0秒")}


def test_the_other_base_examples_may_have_the_texts_of_the_video_stages():
    assert {words(base(seed, rates=(1.0, 8.0))) for seed in range(20)} == {"4.0秒\nlion", "0.5秒\nlion"}
    kinds = [words(base(seed, first=0.3, moment=0.3, rates=(1.0,))) for seed in range(60)]
    assert {kind[-1] for kind in kinds} == {"清", "秒", "n"}
    assert {kind[:5] for kind in kinds if kind[-1] == "秒"} == {"4.0秒\n"}


def test_dropped_captions_become_the_guidance_text():
    assert words(keyframes(clip(33), text_dropout=1.0)) == "4.0秒\n视频"


def test_all_captions_of_a_clip_are_used():
    both = clip(33, texts=("lion", "狮子"))
    assert {words(keyframes(both, seed=seed))[5:] for seed in range(20)} == {"lion", "狮子"}


def test_a_cache_of_another_grid_is_refused():
    wide = TokenClip(np.zeros((33, 9), int), 8.0, ("lion",), "clip")
    with pytest.raises(ValueError, match="the layout wants frames"):
        keyframes(wide)


def fine(source, *, seed=0, coarse=True, mask_ratios=(0.5, 0.5)):
    rng = np.random.default_rng(seed)
    return examples.fine_example(source, rng, text=TEXT, text_length=12, coarse=coarse, mask_ratios=mask_ratios)


def test_a_fine_example_is_one_frame_with_its_own_coarse_ids_behind_the_caption():
    source = clip(6)._replace(coarse=100 + np.arange(6)[:, None])
    seen = set()
    for seed in range(30):
        example = fine(source, seed=seed)
        assert words(example) == "lion" and (example["fine"] == example["fine"][0]).all()
        assert example["coarse"].tolist() == [100 + example["fine"][0]]
        assert example["fine"].dtype == example["coarse"].dtype == np.int32 and example["masked"].sum() == 2
        seen.add(int(example["fine"][0]))
    assert seen == set(range(6))
    assert "coarse" not in fine(clip(6), coarse=False)


def test_the_masked_share_is_drawn_between_its_limits_and_never_nothing():
    source = TokenClip(np.zeros((1, 100), np.int32), 8.0, ("a very long sentence",), "clip")
    counts = [int(fine(source, seed=seed, coarse=False, mask_ratios=(0.2, 0.6))["masked"].sum()) for seed in range(60)]
    assert 20 <= min(counts) < 30 and 50 < max(counts) <= 60
    assert fine(source, coarse=False, mask_ratios=(1.0, 1.0))["masked"].all()
    assert fine(source, coarse=False, mask_ratios=(0.0, 0.0))["masked"].sum() == 1
    assert words(fine(source, coarse=False)) == "a very long "
