"""What a workdir remembers of its run, the table of parameters, and profiles."""

import json

import pytest

from cogvideo_jax.errors import UserError
from cogvideo_jax.training.parameter_table import parameter_table
from cogvideo_jax.training.profile import Profiled, StepProfile, read_profiled
from cogvideo_jax.training.run_config import FILE, agree
from tests.training.run import build, train, typed


@pytest.fixture
def begun(make_config, tmp_path):
    """A folder with a checkpoint, and what makes configs of it."""
    (tmp_path / "checkpoints" / "3").mkdir(parents=True)
    agree(typed(make_config("base")), tmp_path)
    return tmp_path


def test_the_same_config_goes_on_and_all_its_keys_are_in_the_file(begun, make_config):
    config = make_config("base")
    agree(typed(config), begun)
    assert json.loads((begun / FILE).read_text()) == json.loads(config.to_json())


@pytest.mark.parametrize(
    "section, key, value, said",
    [
        ("optimizer", "learning_rate", 0.5, "optimizer.learning_rate=0.01, now it is 0.5"),
        ("", "batch_size", 8, "batch_size=4, now it is 8"),
        ("example", "rates", (2.0,), r"example.rates=\(1.0,\), now it is \(2.0,\)"),
        ("model", "dropout", 0.2, "model.dropout=0.1, now it is 0.2"),
        ("", "ema", 0.9, "ema=0.0, now it is 0.9"),
        ("validation", "share", 0.1, "validation.share=0.0, now it is 0.1"),
    ],
)
def test_a_setting_of_model_or_data_that_differs_is_refused(begun, make_config, section, key, value, said):
    config = make_config("base")
    config.validation.every = 5 if section == "validation" else 0
    (config[section] if section else config)[key] = value
    with pytest.raises(UserError, match=rf"config.json were made with {said}: change it back"):
        agree(typed(config), begun)
    agree(typed(make_config("base")), begun)  # the file has not changed


def test_what_changes_neither_may_differ_and_is_noted(begun, make_config):
    config = make_config("base", steps=100, log_every=7, remat="everything", microbatches=2, tensorboard=True)
    config.mesh.data = -1
    config.samples.every = 5
    config.validation.update(every=5, batches=2)
    agree(typed(config), begun)
    assert json.loads((begun / FILE).read_text())["steps"] == 100


def test_another_part_is_refused_and_a_damaged_file_named(begun, make_config):
    with pytest.raises(UserError, match=r"config\.json"):
        agree(typed(make_config("stage1")), begun)
    (begun / FILE).write_text("{")
    with pytest.raises(UserError, match=r"config\.json is not valid JSON"):
        agree(typed(make_config("base")), begun)


def test_without_checkpoints_or_without_a_file_everything_may_differ(begun, make_config):
    config = make_config("base", batch_size=8)
    (begun / FILE).unlink()
    agree(typed(config), begun)
    (begun / "checkpoints" / "3").rmdir()
    agree(typed(make_config("base")), begun)


def test_the_table_names_every_parameter(make_config):
    lines = parameter_table(build(make_config("stage1"))).splitlines()
    [row] = [line.split() for line in lines if line.startswith("layers/temporal/qkv_kernel")]
    assert row == ["layers/temporal/qkv_kernel", "2x16x3x2x8", "1,536", "6,144", "trained"]
    assert any(line.startswith("token_table") and line.rstrip().endswith("frozen") for line in lines)
    assert [line.split()[1] for line in lines if line.startswith("all ")] == ["trained", "frozen"]


def test_a_profile_of_some_steps_is_written(make_config, tmp_path):
    train(make_config("base", steps=4), tmp_path, profiled=Profiled(1, 3))
    assert list((tmp_path / "profile").rglob("*.xplane.pb"))


@pytest.mark.parametrize("text", ["3", "3:", "4:4", "a:b", "-1:3", "5:4"])
def test_a_profile_that_is_no_range_of_steps_is_refused(text):
    with pytest.raises(UserError, match="should look like 100:110"):
        read_profiled(text)
    assert read_profiled("2:10") == Profiled(2, 10)


def test_a_profile_of_steps_that_are_done_is_refused(tmp_path):
    with pytest.raises(UserError, match="must lie between the steps 6 and 8"):
        StepProfile(tmp_path, Profiled(2, 7), first_step=6, last_step=8)
