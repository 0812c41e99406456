"""From a prompt to frames and files, with small random weights."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from cogvideo_jax import jobs as generate
from cogvideo_jax.cli.main import main
from cogvideo_jax.models.cogvideo.pipeline import TextToVideo
from cogvideo_jax.models.cogvideo.sampling import decode
from cogvideo_jax.runtime.media import read_video

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
    before = decode.begin._cache_size(), decode.write_frames._cache_size()
    video(["the ball"], jax.random.key(5))
    assert (decode.begin._cache_size(), decode.write_frames._cache_size()) == before


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
        generate.RECORD,
    ]


def names_and_times(folder) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.mp4")}


def test_a_file_of_prompts_goes_on_where_it_was_stopped(weights, tmp_path, monkeypatch, capsys):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "videos"
    prompts.write_text(f"{PROMPT}\na ball\nthe red ball\n")
    command = ["generate", "--prompts", str(prompts), "--weights", str(weights), "--out", str(out), "--batch", "1"]
    write, written = generate.write_clip, []

    def write_one_then_fail(path, clip, **options):
        if written:
            raise OSError("no space left")
        return written.append(path) or write(path, clip, **options)

    monkeypatch.setattr(generate, "write_clip", write_one_then_fail)
    assert main([*command, "--fps", "1"]) == 2 and "no space left" in capsys.readouterr().err
    first = names_and_times(out)
    assert len(first) == 1
    with (out / generate.RECORD).open("a") as record:
        record.write('{"video": "0002')  # as a kill leaves it
    monkeypatch.setattr(generate, "write_clip", write)
    assert main([*command, "--fps", "1"]) == 0
    assert "1 videos are there already" in capsys.readouterr().err
    second = names_and_times(out)
    assert len(second) == 3 and first.items() <= second.items()
    assert main([*command, "--fps", "1"]) == 0 and names_and_times(out) == second
    (out / "0002_a_ball.mp4").unlink()
    assert main([*command, "--fps", "1"]) == 0
    third = names_and_times(out)
    assert third.keys() == second.keys() and [name for name in third if third[name] != second[name]] == [
        "0002_a_ball.mp4"
    ]
    assert main([*command, "--fps", "2"]) == 0  # another video of the same name
    assert not names_and_times(out).items() & third.items()


def test_a_prompt_by_itself_is_made_anew(weights, tmp_path):
    command = ["generate", "a ball", "--weights", str(weights), "--out", str(tmp_path), "--fps", "1"]
    assert main(command) == 0
    first = names_and_times(tmp_path)
    assert main(command) == 0 and names_and_times(tmp_path) != first
    assert not (tmp_path / generate.RECORD).exists()


def test_compiled_programs_are_kept_where_asked(weights, tmp_path):
    code = """
import sys
from cogvideo_jax.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
    cache = tmp_path / "programs"
    command = ["generate", "a ball", "--weights", str(weights), "--out", str(tmp_path / "a.mp4"), "--fps", "1"]
    for _ in range(2):
        before = {path.name for path in cache.glob("*-cache")} if cache.exists() else set()
        subprocess.run([sys.executable, "-c", code, *command, "--compilation-cache", str(cache)], check=True)
    assert any("write_frames" in name for name in before)
    assert {path.name for path in cache.glob("*-cache")} == before


@pytest.mark.parametrize("int8", [["weights"], ["cache"], ["weights", "cache"]])
def test_int8_gives_videos_too(weights, tmp_path, int8):
    out = tmp_path / "a.mp4"
    assert main(["generate", PROMPT, "--weights", str(weights), "--out", str(out), "--fps", "2", "--int8", *int8]) == 0
    assert len(read_video(out, fps=2.0, max_seconds=60)) == 9


def test_int8_weights_take_a_quarter_of_the_memory(weights):
    full, small = (TextToVideo.load(weights, int8=int8).weights for int8 in ((), ("weights",)))
    layers = [weights.abstract("stage1")["layers_0"]["mlp"] for weights in (full, small)]
    assert layers[1]["kernel_in"].dtype == np.int8 and layers[1]["kernel_in"].shape == layers[0]["kernel_in"].shape
    loaded = jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), small.stage("stage1").params)
    assert loaded == jax.tree.map(lambda leaf: (leaf.shape, leaf.dtype), small.abstract("stage1"))


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
