"""The memory plan of a video: what it counts, that it is kept, and that nothing is loaded where it says no."""

import dataclasses
import re

import jax
import pytest

from cogvideo_jax import chain
from cogvideo_jax.cli.main import main
from cogvideo_jax.interface import make_request
from cogvideo_jax.models.cogvideo import weights as weights_folder
from cogvideo_jax.runtime import memory
from cogvideo_jax.runtime.memory import Room
from cogvideo_jax.runtime.weights import read_description
from cogvideo_jax.text_to_video import load

PROMPT = "a red ball moves to the right"
PROGRAMS = r"jit\((begin|write_frames|direct_program|_decode)\)"


def stored(folder, *names) -> int:
    """Bytes of float32 leaves in files."""
    return sum(leaf.nbytes for name in names for leaf in read_description(folder / f"{name}.safetensors")[0].values())


def compiled_programs(caplog) -> list[str]:
    found = [re.search(f"Compiling {PROGRAMS}", record.getMessage()) for record in caplog.records]
    return [match.group(1) for match in found if match]


def plan(pipe, videos=1, **fields):
    """Phases of a plan."""
    return pipe.plan(request(videos, **fields)).phases


def request(videos=1, **fields):
    return make_request(prompts=(PROMPT,) * videos, **fields)


def test_phases_come_in_the_order_of_the_work_and_hold_the_weights_loaded_so_far(enlarging):
    phases = plan(load(enlarging), fps=2)
    assert [p.name for p in phases] == ["first frame", "key frames", "9 frames", "super-resolution", "pixels"]
    base = stored(enlarging, "base")
    assert phases[0].weights == base and phases[1].weights == base + stored(enlarging, "stage1")
    assert phases[3].weights == stored(enlarging, "base", "stage1", "stage2", "superres")
    assert all(phase.working > 0 for phase in phases)


def test_one_stage_at_a_time_needs_the_weights_of_one(enlarging):
    pipe = load(enlarging, one_stage_at_a_time=True)
    phases = plan(pipe, fps=2)
    assert phases[2].weights == stored(enlarging, "base", "stage2")
    assert phases[4].weights == pipe.sampler.weights.bytes("tokenizer")


def test_half_as_many_bytes_in_bfloat16(enlarging):
    full, half = (plan(load(enlarging, dtype=dtype), fps=1) for dtype in ("float32", "bfloat16"))
    assert half[0].weights < 0.6 * full[0].weights


def test_more_videos_together_need_more(weights):
    few, many = (plan(load(weights), videos, fps=1)[1].working for videos in (1, 6))
    assert many > 3 * few


def test_as_many_windows_together_as_fit(weights, monkeypatch):
    pipe = load(weights)
    free = dataclasses.replace(pipe.sampler.sampling_config, windows_per_call=None)
    pipe.sampler.weights.sampling_config = free
    whole = pipe.plan(request(2))
    assert whole.steps[2].rows == 16  # windows of the last pass
    phase = whole.phases[2]
    monkeypatch.setattr(memory, "room", lambda: Room(phase.weights + phase.working * 2 // 3, None, 1))
    monkeypatch.setattr(chain, "OVERHEAD", 0)
    half = pipe.plan(request(2))
    assert half.steps[2].rows == 8 and half.phases[2].working < phase.working * 2 // 3
    assert pipe.steps(request(2))[2].rows == 16  # the plan changes nothing but its own result


@pytest.mark.parametrize("growing_cache", [False, True])
def test_nothing_of_the_plan_is_compiled_again(enlarging, caplog, growing_cache):
    pipe, guidance = load(enlarging, growing_cache=growing_cache), 2.75  # a scale that no other test uses
    free = dataclasses.replace(pipe.sampler.sampling_config, windows_per_call=None)  # all windows of the last pass
    pipe.sampler.weights.sampling_config = free
    with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
        planned = pipe.plan(request(3, fps=4, guidance=guidance))
        assert {"begin", "write_frames"} <= set(compiled_programs(caplog))
        caplog.clear()
        pipe.run(request(3, fps=4, guidance=guidance), steps=planned.steps)
        assert compiled_programs(caplog) == []


def test_a_step_reports_as_many_calls_as_it_announces(enlarging):
    pipe, result = load(enlarging), None
    for step in pipe.steps(request(2, fps=4)):
        reported = []
        result = step.run(result, lambda: reported.append(1))  # noqa: B023
        assert len(reported) == step.calls, step.name
        assert sum(calls for lowered, calls in step.programs()) >= step.calls
    assert result.frames.shape == (2, 17, 32, 32, 3)


def test_a_dry_run_shows_every_step_and_makes_nothing(weights, tmp_path, capsys):
    arguments = ["generate", PROMPT, "--weights", str(weights), "--out", str(tmp_path / "a.mp4"), "--dry-run"]
    assert main([*arguments, "--fps", "2"]) == 0
    said = capsys.readouterr().out
    for name in ("first frame", "key frames", "9 frames", "pixels"):
        assert len([line for line in said.splitlines() if line.startswith(name)]) == 2  # memory, then calls
    assert "write_frames x 4" in said and "predicted: " in said
    assert list(tmp_path.iterdir()) == []


def test_generate_refuses_before_anything_is_loaded(weights, tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(memory, "room", lambda: Room(host=1000, device=None, devices=1))
    monkeypatch.setattr(weights_folder.WeightsFolder, "_load", lambda *_: pytest.fail("loaded"))
    out = tmp_path / "video.mp4"
    assert main(["generate", PROMPT, "--weights", str(weights), "--out", str(out)]) == 2
    said = capsys.readouterr().err.splitlines()[-1]
    assert "first frame needs" in said and "of host memory" in said and "--one-stage-at-a-time" in said
    assert not out.exists()


def test_plan_prints_a_table_and_says_what_does_not_fit(weights, monkeypatch, capsys):
    arguments = ["plan", "generate", PROMPT, "--weights", str(weights), "--dtype", "float32"]
    assert main(arguments) == 0
    lines = capsys.readouterr().out.splitlines()
    names = ["first frame", "key frames", "9 frames", "17 frames", "33 frames", "pixels"]
    assert [line.split("  ")[0] for line in lines[1:7]] == names
    monkeypatch.setattr(memory, "room", lambda: Room(host=2**40, device=10_000, devices=4))
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "no; use --one-stage-at-a-time or --dtype bfloat16" in captured.out
    assert "of device memory" in captured.err
