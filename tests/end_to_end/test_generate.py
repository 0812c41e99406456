"""From a prompt to frames and files, with small random weights."""

import subprocess
import sys

import jax
import numpy as np
import pytest

from cogvideo_jax import jobs
from cogvideo_jax.cli.main import main
from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import make_request
from cogvideo_jax.models.cogvideo.sampling import decode
from cogvideo_jax.runtime.media import read_video
from cogvideo_jax.runtime.record import FILE as RECORD
from cogvideo_jax.text_to_video import TextToVideo, Video, load

PROMPT = "a red ball moves to the right"


@pytest.fixture(scope="module")
def pipe(weights) -> TextToVideo:
    return load(weights)


def test_two_prompts_give_two_videos_of_33_frames(pipe):
    videos = pipe([PROMPT, "红色的球向右移动"])
    assert [video.frames.shape for video in videos] == [(33, 16, 16, 3)] * 2
    assert videos[0].frames.dtype == np.uint8 and videos[0].fps == 8 and videos[0].prompt == PROMPT


def test_a_prompt_does_not_depend_on_its_neighbours(pipe):
    both, swapped = (
        pipe.run(make_request(prompts=prompts, seeds=seeds, fps=2)).frames
        for prompts, seeds in (((PROMPT, "a ball"), (1, 2)), (("a ball", PROMPT), (2, 1)))
    )
    np.testing.assert_array_equal(both, swapped[::-1])


def test_other_seeds_and_copies_give_other_videos(pipe):
    request = make_request(prompts=(PROMPT,) * 3, seeds=(1, 2, 1), copies=(0, 0, 1), fps=1)
    one, other, copy = pipe.run(request).frames
    assert np.any(one != other) and np.any(one != copy)


def test_a_second_prompt_compiles_nothing(pipe):
    pipe(PROMPT)
    before = decode.begin._cache_size(), decode.write_frames._cache_size()
    pipe("the ball", seed=5)
    assert (decode.begin._cache_size(), decode.write_frames._cache_size()) == before


@pytest.mark.parametrize("fps, frames", [(1, 5), (2, 9), (4, 17)])
def test_lower_frame_rates_stop_earlier(pipe, fps, frames):
    video = pipe(PROMPT, fps=fps)
    assert len(video.frames) == frames and video.fps == fps


def test_interpolation_keeps_the_frames_it_is_given(pipe):
    slow, fast = (pipe(PROMPT, seed=3, fps=fps).frames for fps in (1, 2))
    np.testing.assert_array_equal(slow, fast[::2])


def test_a_given_first_frame_comes_back_as_its_codes(pipe):
    image = np.random.default_rng(0).integers(0, 256, (16, 16, 3), np.uint8)
    frames = pipe(PROMPT, first_image=image, fps=1).frames
    tokenizer = pipe.sampler.tokenizer
    np.testing.assert_array_equal(frames[0], tokenizer.decode(tokenizer.encode(image[None]))[0])


def test_a_video_is_saved_by_its_suffix_and_shown_in_a_notebook(pipe, tmp_path):
    video = pipe(PROMPT, fps=1)
    assert read_video(video.save(tmp_path / "a.mp4"), fps=1.0, max_seconds=60).shape[0] == 5
    assert video.save(tmp_path / "a.gif").exists() and video.save(tmp_path / "a.png").exists()
    assert video._repr_html_().startswith("<video ") and "data:video/mp4;base64," in video._repr_html_()
    for name, words in (("a.txt", "should end in .mp4"), ("a.keyframes", "only key frames")):
        with pytest.raises(UserError, match=words):
            video.save(tmp_path / name)


@pytest.mark.parametrize(
    "fields, words",
    [
        (dict(fps=-1), "fps is -1; it should be greater than 0"),
        (dict(speed=2), "unknown key speed"),
        (dict(output="image", fps=2), "output=image cannot be combined with fps"),
        (dict(output="key_frames", fps=2), "output=key_frames cannot be combined with fps"),
        (dict(first_image=np.zeros((8, 8, 3), np.uint8)), "pictures of 16 x 16 pixels"),
    ],
)
def test_wishes_that_cannot_be_are_refused_in_a_sentence(pipe, fields, words):
    with pytest.raises(UserError, match=words):
        pipe(PROMPT, **fields)


def test_weights_are_opened_in_known_ways_only(weights):
    with pytest.raises(UserError, match=r"int8\[0\] is 'matrices'; it should be 'weights' or 'cache'"):
        load(weights, int8=["matrices"])
    with pytest.raises(UserError, match="unknown key speed"):
        load(weights, speed=3)


def test_the_same_command_writes_the_same_file(weights, tmp_path, capsys):
    (tmp_path / "one.txt").write_text(PROMPT)
    for name, prompt in (("a.mp4", [PROMPT]), ("b.mp4", ["--prompts", str(tmp_path / "one.txt")])):
        assert main(["generate", *prompt, "--weights", str(weights), "--out", str(tmp_path / name)]) == 0
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
        RECORD,
    ]


def names_and_times(folder) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in folder.glob("*.mp4")}


def test_a_file_of_prompts_goes_on_where_it_was_stopped(weights, tmp_path, monkeypatch, capsys):
    prompts, out = tmp_path / "prompts.txt", tmp_path / "videos"
    prompts.write_text(f"{PROMPT}\na ball\nthe red ball\n")
    command = ["generate", "--prompts", str(prompts), "--weights", str(weights), "--out", str(out), "--batch", "1"]
    save, written = Video.save, []

    def save_one_then_fail(video, path, **how):
        if written:
            raise OSError("no space left")
        return written.append(path) or save(video, path, **how)

    monkeypatch.setattr(Video, "save", save_one_then_fail)
    assert main([*command, "--fps", "1"]) == 2 and "no space left" in capsys.readouterr().err
    first = names_and_times(out)
    assert len(first) == 1
    with (out / RECORD).open("a") as record:
        record.write('{"video": "0002')  # as a kill leaves it
    monkeypatch.setattr(Video, "save", save)
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
    assert main([*command, "--fps", "2"]) == 2 and names_and_times(out) == third  # other videos of the same names
    assert "--force" in capsys.readouterr().err
    assert main([*command, "--fps", "2", "--force"]) == 0
    assert not names_and_times(out).items() & third.items()


def test_a_video_that_exists_is_made_anew_only_by_force(weights, tmp_path, capsys):
    command = ["generate", "a ball", "--weights", str(weights), "--out", str(tmp_path), "--fps", "1"]
    assert main(command) == 0
    first = names_and_times(tmp_path)
    assert main(command) == 2 and names_and_times(tmp_path) == first
    assert "a_ball.mp4 exists; choose another name, or pass --force" in capsys.readouterr().err
    assert main([*command, "--force"]) == 0 and names_and_times(tmp_path) != first
    assert not (tmp_path / RECORD).exists()


def test_compiled_programs_are_kept_where_asked(weights, tmp_path):
    code = """
import sys
from cogvideo_jax.cli.main import main
sys.exit(main(sys.argv[1:]))
"""
    cache = tmp_path / "programs"
    command = [
        "generate",
        "a ball",
        "--weights",
        str(weights),
        "--out",
        str(tmp_path / "a.mp4"),
        "--fps",
        "1",
        "--force",
    ]
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
    full, small = (load(weights, int8=int8).sampler.weights for int8 in ((), ("weights",)))
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
    assert jobs.safe_name(prompt) == name
