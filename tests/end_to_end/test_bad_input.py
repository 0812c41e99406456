"""Wrong input ends in one clear sentence and a non-zero exit code, before anything is computed."""

import importlib.util
import json
import shutil
from pathlib import Path

import pytest

from cogvideo_jax.cli.main import main

PROMPT = "a red ball moves to the right"


@pytest.fixture
def fails(capsys):
    """arguments, words -> the command fails with one sentence that has the words."""

    def check(arguments: list[str], *words: str) -> None:
        assert main([str(argument) for argument in arguments]) != 0
        error = capsys.readouterr().err.strip()
        sentence = error.splitlines()[-1]
        assert sentence.startswith("cogvideo ") and "Traceback" not in error, error
        for word in words:
            assert word in sentence, sentence

    return check


def test_an_empty_prompt(fails, weights):
    fails(["generate", "  ", "--weights", weights], "prompt is empty")


def test_a_prompt_that_is_too_long(fails, weights):
    fails(["generate", "red ball " * 30, "--weights", weights], "of the 16 text tokens", "shorten")


def test_no_prompt_at_all(fails, weights):
    fails(["generate", "--weights", weights], "either a prompt or --prompts")


def test_a_prompts_file_without_prompts(fails, weights, tmp_path):
    (tmp_path / "empty.txt").write_text("\n\n")
    fails(["generate", "--prompts", tmp_path / "empty.txt", "--weights", weights], "no line with a prompt")


def test_missing_weights(fails, tmp_path):
    fails(["generate", PROMPT, "--weights", tmp_path / "none"], "no folder of weights")


@pytest.mark.parametrize("part", ["tokenizer", "base", "stage1", "stage2"])
def test_a_missing_or_damaged_part(fails, weights, tmp_path, part):
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    file = folder / f"{part}.safetensors"
    whole = file.read_bytes()
    file.write_bytes(whole[: len(whole) // 2])
    fails(["generate", PROMPT, "--weights", folder], file.name, "damaged")
    file.unlink()
    fails(["generate", PROMPT, "--weights", folder], file.name, "do not exist")


def test_a_sampling_config_with_an_unknown_key(fails, weights, tmp_path):
    folder = tmp_path / "weights"
    shutil.copytree(weights, folder)
    sampling_config = json.loads((folder / "pipeline.json").read_text())
    (folder / "pipeline.json").write_text(json.dumps(sampling_config | {"speed": 1}))
    fails(["generate", PROMPT, "--weights", folder], "speed")


def test_rates_and_lengths_that_the_weights_cannot_give(fails, weights):
    fails(["generate", PROMPT, "--weights", weights, "--fps", "30"], "1, 2, 4, 8 frames a second, not 30")
    fails(["generate", PROMPT, "--weights", weights, "--seconds", "9"], "videos of 4 seconds, not 9")


def test_fields_of_other_families(fails, weights):
    fails(["generate", PROMPT, "--weights", weights, "--steps", "50"], "do not take steps")
    fails(["generate", PROMPT, "--weights", weights, "--size", "480x720"], "do not take size")
    fails(["generate", PROMPT, "--weights", weights, "--size", "480"], "480x720")
    fails(["generate", PROMPT, "--weights", weights, "--lora", "a.safetensors=0.5"], "do not take loras")
    fails(["generate", PROMPT, "--weights", weights, "--lora", "a.safetensors=1e9"], "do not take loras")
    fails(["generate", PROMPT, "--weights", weights, "--lora", "a=1000"], "scale is 1000.0")


def test_an_image_that_is_no_image(fails, weights, tmp_path):
    (tmp_path / "no.png").write_bytes(b"nothing")
    fails(["generate", PROMPT, "--weights", weights, "--first-frame", tmp_path / "no.png"], "no.png")
    fails(["generate", PROMPT, "--weights", weights, "--first-frame", tmp_path / "none.png"], "none.png")


def test_an_output_folder_that_cannot_be_written(fails, weights, tmp_path):
    (tmp_path / "file").write_text("in the way")
    fails(["generate", PROMPT, "--weights", weights, "--out", tmp_path / "file" / "videos"], "cannot be written")


def test_one_file_name_for_several_videos(fails, weights, tmp_path):
    out = tmp_path / "one.mp4"
    fails(["generate", PROMPT, "--weights", weights, "--num", "2", "--out", out], "give a folder")


def test_no_video_asked_for(fails, weights, tmp_path):
    fails(["generate", PROMPT, "--weights", weights, "--num", "0", "--out", tmp_path], "at least 1")


def test_a_folder_without_captions(fails, weights, tmp_path):
    tokenizer = weights / "tokenizer.safetensors"
    arguments = ["--tokenizer", tokenizer, "--out", tmp_path / "cache", "--size", "16"]
    fails(["tokenize", "--source", tmp_path, *arguments], "captions.jsonl")


def test_a_folder_in_which_every_video_is_broken(fails, weights, tmp_path):
    (tmp_path / "captions.jsonl").write_text('{"file": "a.mp4", "text": "a ball"}\n')
    (tmp_path / "a.mp4").write_bytes(b"no video")
    tokenizer = weights / "tokenizer.safetensors"
    arguments = ["--tokenizer", tokenizer, "--out", tmp_path / "cache", "--size", "16"]
    fails(["tokenize", "--source", tmp_path, *arguments], "not one clip could be used", "a.mp4")


def test_weights_of_another_part_as_tokenizer(fails, weights, tmp_path):
    arguments = ["--tokenizer", weights / "base.safetensors", "--out", tmp_path / "cache"]
    fails(["tokenize", "--source", tmp_path, *arguments], "not a tokenizer")


def test_training_without_config_cache_or_known_keys(fails, tmp_path):
    fails(["train", "--config", tmp_path / "none.py", "--workdir", tmp_path / "run"], "does not exist")
    config = Path(__file__).parents[2] / "configs" / "demo_base.py"
    fails(["train", f"--config={config}", "--workdir", tmp_path, "--config.stepz=3"], "stepz")
    fails(
        ["train", f"--config={config}", "--workdir", tmp_path, f"--config.data.cache={tmp_path}"],
        "token cache",
    )


@pytest.mark.parametrize(
    "arguments",
    [["evaluate"], ["train", "--config=x.py"], ["tokenize", "--source=captioned_motion", "--tokenizer=x", "--out=y"]],
)
def test_a_library_that_is_not_installed_is_named_before_any_work(fails, monkeypatch, arguments):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "sklearn" else find(name))
    fails(arguments, "this needs sklearn; install the extra with pip install", "[train]")


def test_an_unknown_argument_is_named(capsys):
    with pytest.raises(SystemExit) as stop:
        main(["generate", PROMPT, "--speed", "3"])
    assert stop.value.code != 0 and "--speed" in capsys.readouterr().err
