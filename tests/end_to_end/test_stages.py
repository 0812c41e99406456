"""Stages run alone and continued, super-resolution, and what each of the command's options changes."""

import dataclasses
from pathlib import Path

import numpy as np
import pytest

from cogvideo_jax.cli.main import main
from cogvideo_jax.runtime.media import read_image, read_video, write_mp4
from cogvideo_jax.text_to_video import load

PROMPT = "a red ball moves to the right"


def run(*arguments) -> int:
    return main([str(argument) for argument in arguments])


def test_super_resolution_doubles_the_picture_unless_it_is_left_out(enlarging, weights):
    large, small = load(enlarging), load(weights)
    assert large(PROMPT, fps=1).frames.shape == (5, 32, 32, 3)
    np.testing.assert_array_equal(large(PROMPT, fps=1, superres=False).frames, small(PROMPT, fps=1).frames)


def test_iterative_super_resolution_draws_fine_tokens_again_where_the_sampling_config_asks_for_it(refining, enlarging):
    refined, direct = load(refining), load(enlarging)
    request = refined.request(PROMPT, fps=1)
    assert [step.name for step in refined.steps(request)][-3:] == ["super-resolution", "refinement", "pixels"]
    fine = refined(PROMPT, fps=1).frames
    assert fine.shape == (5, 32, 32, 3) and (fine != direct(PROMPT, fps=1).frames).any()
    np.testing.assert_array_equal(fine, refined(PROMPT, fps=1).frames)


def test_a_picture_does_not_depend_on_how_many_are_enlarged_together(enlarging):
    one, many = load(enlarging), load(enlarging)
    few = dataclasses.replace(many.sampler.sampling_config, superres_per_call=7, decoded_per_call=3)
    many.sampler.weights.sampling_config = few
    np.testing.assert_array_equal(*(pipe(PROMPT, seed=2, fps=2).frames for pipe in (one, many)))


def test_loading_one_stage_at_a_time_changes_nothing(enlarging):
    kept, anew = (load(enlarging, one_stage_at_a_time=anew) for anew in (False, True))
    np.testing.assert_array_equal(*(pipe(PROMPT, seed=1, fps=2).frames for pipe in (kept, anew)))
    assert len(kept.sampler.weights._loaded) == 4 and len(anew.sampler.weights._loaded) == 0


def test_bfloat16_keeps_its_matrices_in_half_the_bytes(weights):
    pipe = load(weights, dtype="bfloat16")
    params = pipe.sampler.weights.stage("stage1").params
    assert params["token_table"].dtype == "bfloat16" and params["norm_final"]["scale"].dtype == "float32"
    assert pipe(PROMPT, fps=1).frames.shape == (5, 16, 16, 3)


def test_key_frames_alone_and_then_interpolated_are_the_whole_video(enlarging, tmp_path):
    assert run("generate", PROMPT, "--weights", enlarging, "--out", tmp_path / "keys.mp4", "--key-frames") == 0
    assert len(read_video(tmp_path / "keys.mp4", fps=1.0, max_seconds=60)) == 5
    keys = tmp_path / "keys.keyframes"
    assert run("interpolate", keys, "--weights", enlarging, "--out", tmp_path / "whole.mp4") == 0
    assert run("generate", PROMPT, "--weights", enlarging, "--out", tmp_path / "at_once.mp4") == 0
    assert len(read_video(tmp_path / "whole.mp4", fps=8.0, max_seconds=60)) == 33
    assert (tmp_path / "whole.mp4").read_bytes() == (tmp_path / "at_once.mp4").read_bytes()


def test_a_users_video_gets_twice_the_frame_rate(weights, tmp_path):
    rng = np.random.default_rng(0)
    write_mp4(tmp_path / "mine.mp4", rng.integers(0, 256, (9, 64, 64, 3), np.uint8), fps=4)
    arguments = ["interpolate", tmp_path / "mine.mp4", "--prompt", PROMPT, "--weights", weights]
    assert run(*arguments, "--out", tmp_path / "fast.mp4", "--sheet") == 0
    assert len(read_video(tmp_path / "fast.mp4", fps=8.0, max_seconds=60)) == 17
    assert (tmp_path / "fast.png").exists()


def test_a_users_video_is_never_written_over(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    write_mp4("mine.mp4", np.random.default_rng(0).integers(0, 256, (5, 64, 64, 3), np.uint8), fps=4)
    before = Path("mine.mp4").read_bytes()
    command = ["interpolate", "mine.mp4", "--prompt", PROMPT, "--weights", weights]
    assert run(*command) == 0
    assert sorted(path.name for path in tmp_path.iterdir()) == ["mine.mp4", "mine_8fps.mp4"]
    assert run(*command, "--out", "mine.mp4", "--force") == 2
    assert "is the source" in capsys.readouterr().err
    assert run(*command) == 2 and "mine_8fps.mp4 exists" in capsys.readouterr().err
    assert Path("mine.mp4").read_bytes() == before


def test_a_picture_by_the_base_alone(enlarging, tmp_path):
    assert run("generate", PROMPT, "--image", "--weights", enlarging, "--out", tmp_path, "--num", 2) == 0
    pictures = [read_image(path) for path in sorted(tmp_path.glob("*.png"))]
    assert [picture.shape for picture in pictures] == [(32, 32, 3)] * 2 and (pictures[0] != pictures[1]).any()


def test_the_release_stretches_every_frame_from_black_to_white(weights):
    frames = load(weights)(PROMPT, fps=1, compat="release").frames
    assert (frames.min((1, 2, 3)) == 0).all() and (frames.max((1, 2, 3)) == 255).all()


@pytest.mark.parametrize(
    "arguments, words",
    [
        (["interpolate", "none.keyframes"], "does not exist"),
        (["interpolate", "none.mp4", "--prompt", PROMPT], "cannot read video"),
        (["interpolate", "none.mp4"], "--prompt"),
        (["interpolate", "none.mp4", "--prompt", PROMPT, "--fps", "3"], "frames a second"),
        (["generate", PROMPT, "--key-frames", "--seconds", "9"], "seconds"),
    ],
)
def test_bad_input_is_one_sentence(arguments, words, weights, tmp_path, capsys):
    assert run(*arguments, "--weights", weights, "--out", tmp_path) == 2
    error = capsys.readouterr().err.strip().splitlines()[-1]
    assert words in error and error.startswith("cogvideo ")


def test_a_text_model_and_cluster_labels_are_added_and_checked(weights, tmp_path, capsys):
    assert run("convert", weights / "text.model", tmp_path / "ours") == 0
    np.save(tmp_path / "labels.npy", np.arange(32) // 2)
    assert run("convert", tmp_path / "labels.npy", tmp_path / "ours") == 0
    names = {path.name for path in (tmp_path / "ours").iterdir()}
    assert names == {"text.model", "cluster_labels.npy", "SHA256SUMS"}
    (tmp_path / "bad.model").write_bytes(b"no model")
    np.save(tmp_path / "bad.npy", np.ones((3, 3)))
    for name in ("bad.model", "bad.npy"):
        assert run("convert", tmp_path / name, tmp_path / "others") == 2
    assert not (tmp_path / "others").exists()
    assert "SentencePiece" in capsys.readouterr().err
