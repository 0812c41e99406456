"""A new family needs no change outside its own folder: a fake one goes through the door and every command."""

import json

import pytest

from cogvideo_jax import load
from cogvideo_jax.cli.main import main
from cogvideo_jax.errors import UserError
from cogvideo_jax.models import registry
from cogvideo_jax.runtime.media import read_video
from cogvideo_jax.runtime.weights import load_weights


@pytest.fixture
def grey(tmp_path, monkeypatch):
    """A folder of weights of the fake family."""
    monkeypatch.setitem(registry.FAMILIES, "grey", "tests.fake_family")
    folder = tmp_path / "grey"
    folder.mkdir()
    (folder / "pipeline.json").write_text(json.dumps({"family": "grey"}))
    return folder


def test_the_door_opens_it_by_its_folder(grey):
    video = load(grey)("a cloud", seed=7)
    assert video.frames.shape == (4, 16, 16, 3) and video.frames[1, 0, 0, 0] == 47 and video.fps == 2.0


def test_fields_that_it_does_not_take_are_refused(grey):
    with pytest.raises(UserError, match="do not take fps"):
        load(grey)("a cloud", fps=4)


def test_it_generates_and_remembers_what_is_done(grey, tmp_path, capsys):
    (tmp_path / "prompts.txt").write_text("a cloud\na red cloud\n")
    command = ["generate", "--prompts", str(tmp_path / "prompts.txt"), "--weights", str(grey), "--out", str(tmp_path)]
    assert main(command) == 0
    videos = sorted(tmp_path.glob("*.mp4"))
    assert len(videos) == 2 and len(read_video(videos[0], fps=2.0, max_seconds=60)) == 4
    assert main(command) == 0 and "2 videos are there already" in capsys.readouterr().err


def test_it_is_planned_and_shown_before_it_runs(grey, tmp_path, capsys):
    assert main(["plan", "generate", "a cloud", "--weights", str(grey)]) == 0
    assert main(["generate", "a cloud", "--weights", str(grey), "--out", str(tmp_path), "--dry-run"]) == 0
    said = capsys.readouterr().out
    assert said.count("\ngreys") == 3 and " x 1" in said and not list(tmp_path.glob("*.mp4"))


def test_it_is_measured(grey, capsys):
    assert main(["bench", "--family", "grey", "greys"]) == 0
    assert main(["bench", "--family", "grey", "pipeline", "--weights", str(grey)]) == 0
    assert "greys" in capsys.readouterr().out


CONFIG = """
from ml_collections import ConfigDict

def get_config():
    optimizer = dict(learning_rate=0.5, warmup_steps=1, final_fraction=1.0, b1=0.0, b2=0.9, eps=1e-8)
    optimizer |= dict(weight_decay=0.0, clip_norm=9.0, muon=False)
    return ConfigDict(dict(
        family="grey", part="mean", seed=0, steps=30, batch_size=4, log_every=10, checkpoint_every=30,
        keep_checkpoints=1, mesh=dict(data=1, fsdp=1, tensor=1), optimizer=optimizer, ema=0.0, tensorboard=False,
        validation=dict(every=0, batches=1, share=0.0), samples=dict(every=0),
    ))
"""


def test_it_is_trained_by_the_same_loop(grey, tmp_path):
    (tmp_path / "mean.py").write_text(CONFIG)
    command = ["train", f"--config={tmp_path / 'mean.py'}"]
    assert main([*command, "--check"]) == 0 and main(["plan", *command]) == 0
    assert main([*command, f"--workdir={tmp_path / 'run'}"]) == 0
    tree, description = load_weights(tmp_path / "run" / "weights.safetensors")
    assert description == {"kind": "mean"} and abs(tree["mean"] - 3.0) < 0.5


def test_what_it_lacks_is_said_in_a_sentence(grey, capsys):
    arguments = ["--source", "x", "--tokenizer", "y", "--out", "z", "--family", "grey"]
    assert main(["tokenize", *arguments]) == 2 and "needs no cache" in capsys.readouterr().err
    assert main(["convert", "--family", "grey"]) == 2 and "nothing to convert" in capsys.readouterr().err
    with pytest.raises(UserError, match="no model family 'blue'; known are cogvideo, cogvideox, grey"):
        registry.family("blue")


def test_a_folder_of_an_unknown_family_or_without_one_is_refused(grey):
    (grey / "pipeline.json").write_text('{"family": "blue"}')
    with pytest.raises(UserError, match="no model family 'blue'"):
        load(grey)
    with pytest.raises(UserError, match="no folder of weights"):
        load(grey / "none")


def test_any_other_exception_is_a_bug_and_says_where_to_report_it(grey, monkeypatch, capsys):
    monkeypatch.setattr("tests.fake_family.GreySampler.fps", lambda *_: 1 / 0)
    assert main(["generate", "a cloud", "--weights", str(grey), "--out", str(grey)]) == 70
    said = capsys.readouterr().err
    assert "ZeroDivisionError" in said and said.splitlines()[-1].startswith("cogvideo generate: this is a bug")


def test_the_origin_of_a_users_error_is_shown_where_asked(grey, capsys):
    command = ["generate", "a cloud", "--weights", str(grey), "--fps", "3"]
    assert main(command) == 2 and "Traceback" not in capsys.readouterr().err
    assert main([*command, "--traceback"]) == 2 and "Traceback" in capsys.readouterr().err
