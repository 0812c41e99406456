"""The memory plan of a video: what it counts, that it is kept, and that nothing is loaded where it says no."""

import dataclasses
import re

import jax
import pytest

from cogvideo_jax.cli.main import main
from cogvideo_jax.models.cogvideo import memory_plan as plan
from cogvideo_jax.models.cogvideo import weights as weights_folder
from cogvideo_jax.models.cogvideo.memory_plan import Request, plan_generation
from cogvideo_jax.models.cogvideo.pipeline import TextToVideo
from cogvideo_jax.runtime import memory
from cogvideo_jax.runtime.memory import Room
from cogvideo_jax.runtime.weights import read_description

PROMPT = "a red ball moves to the right"
PROGRAMS = r"jit\((begin|write_frames|direct_program|_decode)\)"


def stored(folder, *names) -> int:
    """Bytes of float32 leaves in files."""
    return sum(leaf.nbytes for name in names for leaf in read_description(folder / f"{name}.safetensors")[0].values())


def compiled_programs(caplog) -> list[str]:
    found = [re.search(f"Compiling {PROGRAMS}", record.getMessage()) for record in caplog.records]
    return [match.group(1) for match in found if match]


def test_phases_come_in_the_order_of_the_work_and_hold_the_weights_loaded_so_far(enlarging):
    phases = plan_generation(TextToVideo.load(enlarging), Request(1, rounds=1))
    assert [p.name for p in phases] == ["first frame", "key frames", "interpolation", "super-resolution", "pixels"]
    base = stored(enlarging, "base")
    assert phases[0].weights == base and phases[1].weights == base + stored(enlarging, "stage1")
    assert phases[3].weights == stored(enlarging, "base", "stage1", "stage2", "superres")
    assert all(phase.working > 0 for phase in phases)


def test_one_stage_at_a_time_needs_the_weights_of_one(enlarging):
    video = TextToVideo.load(enlarging, keep=False)
    phases = plan_generation(video, Request(1, rounds=1))
    assert phases[2].weights == stored(enlarging, "base", "stage2")
    assert phases[4].weights == video.weights.bytes("tokenizer")


def test_half_as_many_bytes_in_bfloat16(enlarging):
    full, half = (plan_generation(TextToVideo.load(enlarging, dtype=d), Request(1, 0)) for d in ("float32", "bfloat16"))
    assert half[0].weights < 0.6 * full[0].weights


def test_more_videos_together_need_more(weights):
    few, many = (plan_generation(TextToVideo.load(weights), Request(n, rounds=0))[1].working for n in (1, 6))
    assert many > 3 * few


def test_as_many_windows_together_as_fit(weights, monkeypatch):
    video = TextToVideo.load(weights)
    video.sampling_config = dataclasses.replace(video.sampling_config, windows_per_call=None)
    video.windows_per_call = None
    request = Request(2, rounds=3)
    whole = plan_generation(video, request)[2]
    assert video.windows(2, 5, 3) == 16  # of the last round
    monkeypatch.setattr(memory, "room", lambda: Room(whole.weights + whole.working * 2 // 3, None, 1))
    monkeypatch.setattr(plan, "OVERHEAD", 0)
    half = plan_generation(video, request)[2]
    assert video.windows(2, 5, 3) == 8 and half.working < whole.working * 2 // 3


@pytest.mark.parametrize("growing_cache", [False, True])
def test_nothing_of_the_plan_is_compiled_again(enlarging, caplog, growing_cache):
    video, guidance = TextToVideo.load(enlarging, growing_cache=growing_cache), 2.75  # a scale that no other test uses
    with jax.log_compiles(), caplog.at_level("WARNING", logger="jax"):
        plan_generation(video, Request(3, rounds=2, guidance=guidance))
        assert {"begin", "write_frames"} <= set(compiled_programs(caplog))
        caplog.clear()
        video([PROMPT] * 3, jax.random.key(0), fps=4, guidance=guidance)
        assert compiled_programs(caplog) == []


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
    assert [line.split("  ")[0] for line in lines[1:5]] == ["first frame", "key frames", "interpolation", "pixels"]
    monkeypatch.setattr(memory, "room", lambda: Room(host=2**40, device=10_000, devices=4))
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert "no; use --one-stage-at-a-time or --dtype bfloat16" in captured.out
    assert "of device memory" in captured.err
