"""From a prompt to frames and files, with small random weights."""

import jax
import numpy as np
import pytest

from cogvideo_jax import generate
from cogvideo_jax.cli import main
from cogvideo_jax.runtime.video_io import read_video
from cogvideo_jax.sampling import decode
from cogvideo_jax.text_to_video import TextToVideo

PROMPT = "a red ball moves to the right"


@pytest.fixture(scope="module")
def video(weights) -> TextToVideo:
    return TextToVideo.load(weights)


def test_two_prompts_give_two_videos_of_33_frames(video):
    frames = video([PROMPT, "红色的球向右移动"], jax.random.key(0))
    assert frames.shape == (2, 33, 16, 16, 3) and frames.dtype == np.uint8


def test_a_prompt_does_not_depend_on_its_neighbours(video):
    keys = jax.random.split(jax.random.key(1), 2)
    both = video([PROMPT, "a ball"], keys, fps=2)
    swapped = video(["a ball", PROMPT], keys[::-1], fps=2)
    np.testing.assert_array_equal(both, swapped[::-1])


def test_other_seeds_give_other_videos(video):
    one, other = (video([PROMPT], jax.random.key(seed), fps=1) for seed in (1, 2))
    assert np.any(one != other)


def test_a_second_prompt_compiles_nothing(video):
    video([PROMPT], jax.random.key(0))
    before = decode.begin._cache_size(), decode.write_frame._cache_size()
    video(["the ball"], jax.random.key(5))
    assert (decode.begin._cache_size(), decode.write_frame._cache_size()) == before


@pytest.mark.parametrize("fps, frames", [(1, 5), (2, 9), (4, 17)])
def test_lower_frame_rates_stop_earlier(video, fps, frames):
    assert video([PROMPT], jax.random.key(0), fps=fps).shape[1] == frames


def test_interpolation_keeps_the_frames_it_is_given(video):
    slow, fast = (video([PROMPT], jax.random.key(3), fps=fps) for fps in (1, 2))
    np.testing.assert_array_equal(slow, fast[:, ::2])


def test_a_given_first_frame_comes_back_as_its_codes(video):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    frames = video([PROMPT], jax.random.key(0), first_image=image, fps=1)
    np.testing.assert_array_equal(frames[0, 0], video.tokenizer.decode(video.tokenizer.encode(image[None]))[0])


def test_the_same_command_writes_the_same_file(weights, tmp_path, capsys):
    for name in ("a.mp4", "b.mp4"):
        assert main(["generate", PROMPT, "--weights", str(weights), "--out", str(tmp_path / name)]) == 0
    assert (tmp_path / "a.mp4").read_bytes() == (tmp_path / "b.mp4").read_bytes()
    assert capsys.readouterr().out.split() == [str(tmp_path / "a.mp4"), str(tmp_path / "b.mp4")]
    assert len(read_video(tmp_path / "a.mp4", fps=8.0, max_seconds=60)) == 33


def test_a_file_of_prompts_gives_a_file_each_and_survives_a_bad_line(weights, tmp_path, capsys):
    prompts = tmp_path / "prompts.txt"
    prompts.write_text(f"{PROMPT}\n\n{'ball ' * 40}\n红球/../a\n", encoding="utf-8")
    out = tmp_path / "videos"
    code = main(["generate", "--prompts", str(prompts), "--weights", str(weights), "--out", str(out), "--gif"])
    assert code == 2 and "shorten" in capsys.readouterr().err
    names = sorted(path.name for path in out.iterdir())
    assert names == [
        "0001_a_red_ball_moves_to_the_right.gif",
        "0001_a_red_ball_moves_to_the_right.mp4",
        "0003_红球_a.gif",
        "0003_红球_a.mp4",
    ]


def test_several_copies_differ_and_a_sheet_shows_all_frames(weights, tmp_path):
    arguments = [
        "generate",
        PROMPT,
        "--weights",
        str(weights),
        "--out",
        str(tmp_path),
        "--num",
        "2",
        "--sheet",
    ]
    assert main(arguments) == 0
    videos = sorted(tmp_path.glob("*.mp4"))
    assert len(videos) == 2 == len(list(tmp_path.glob("*.png")))
    assert videos[0].read_bytes() != videos[1].read_bytes()


@pytest.mark.parametrize(
    "prompt, name",
    [
        ("A red ball!", "a_red_ball"),
        ("../../etc/passwd", "etc_passwd"),
        ("红色的球", "红色的球"),
        ("...", "video"),
        ("x" * 300, "x" * 60),
    ],
)
def test_file_names_are_made_safe(prompt, name):
    assert generate.safe_name(prompt) == name
