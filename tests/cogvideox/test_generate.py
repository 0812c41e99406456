"""`cogvideo generate` with snapshots as they are downloaded: the commands of the README, on tiny weights."""

import dataclasses
import json

import numpy as np
import pytest
import safetensors.numpy
from PIL import Image

from cogvideo_jax import load
from cogvideo_jax.cli.main import main
from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Start
from cogvideo_jax.models.cogvideox.steps import largest_divisor
from cogvideo_jax.runtime.media import read_video
from tests.cogvideox.snapshots import write_snapshot

ENLARGED = (9, 6 * 48, 6 * 64, 3)  # small videos are written larger, for players
SMALL = ["--size", "48x64", "--steps", "2"]


@pytest.fixture(scope="module")
def snapshots(tmp_path_factory):
    """Folders by the golden that they are made of."""
    root = tmp_path_factory.mktemp("snapshots")
    names = ("t2v", "i2v", "t2v_15")
    return {name: str(write_snapshot(root / name, f"x_pipeline_{name}")) for name in names}


@pytest.fixture(scope="module")
def video(snapshots, tmp_path_factory):
    """A video of text, which the other tests go on from."""
    out = tmp_path_factory.mktemp("videos") / "cat.mp4"
    assert main(["generate", "a blue cat", "--weights", snapshots["t2v"], *SMALL, "--out", str(out)]) == 0
    return out


def frames_of(path, fps: float = 8.0) -> np.ndarray:
    return read_video(path, fps=fps, max_seconds=60)


def test_text_becomes_a_video(video):
    assert frames_of(video).shape == ENLARGED


def test_a_picture_becomes_a_video(snapshots, tmp_path):
    pixels = np.random.default_rng(0).integers(0, 255, (70, 90, 3), dtype=np.uint8)
    Image.fromarray(pixels).save(tmp_path / "cat.png")
    command = ["generate", "a blue cat", "--weights", snapshots["i2v"], "--first-frame", str(tmp_path / "cat.png")]
    assert main([*command, *SMALL, "--out", str(tmp_path / "cat.mp4")]) == 0
    assert frames_of(tmp_path / "cat.mp4").shape == ENLARGED


def test_a_video_is_made_anew_in_part(snapshots, video, tmp_path):
    command = ["generate", "a red cat", "--weights", snapshots["t2v"], "--from-video", str(video), "--strength", "0.5"]
    assert main([*command, *SMALL, "--out", str(tmp_path / "red.mp4")]) == 0
    assert frames_of(tmp_path / "red.mp4").shape == ENLARGED


def test_the_later_release_makes_longer_videos(snapshots, tmp_path):
    command = ["generate", "a cat", "--weights", snapshots["t2v_15"], "--frames", "17", *SMALL]
    assert main([*command, "--out", str(tmp_path / "cat.mp4")]) == 0
    assert len(frames_of(tmp_path / "cat.mp4", fps=16.0)) == 17


def test_the_plan_names_the_steps_and_int8_weighs_less(snapshots, capsys):
    weights = []
    for options in ([], ["--int8", "weights"]):
        assert main(["plan", "generate", "a cat", "--weights", snapshots["t2v"], *SMALL, *options]) == 0
        table = capsys.readouterr().out
        assert all(name in table for name in ("text", "denoising", "pixels", "peak memory"))
        weights.append(float(next(line for line in table.splitlines() if line.startswith("text")).split()[1]))
    assert weights[1] < 0.8 * weights[0]


def test_one_seed_gives_one_video_whatever_is_made_beside_it(snapshots):
    pipe, how = load(snapshots["t2v"]), dict(seed=3, size=(48, 64), steps=2, frames=9)
    both, alone = pipe(["a cat", "a dog"], **how), pipe("a dog", **how)
    assert np.abs(both[1].frames.astype(int) - alone.frames).max() <= 1
    assert np.abs(both[0].frames.astype(int) - alone.frames).max() > 1


def test_a_lora_changes_the_video_by_its_scale(snapshots, tmp_path):
    width, rng = 64, np.random.default_rng(1)
    module = "transformer.transformer_blocks.0.attn1.to_q"
    factors = {f"{module}.lora_A.weight": (4, width), f"{module}.lora_B.weight": (width, 4)}
    tensors = {name: rng.standard_normal(shape).astype(np.float32) for name, shape in factors.items()}
    safetensors.numpy.save_file(tensors, tmp_path / "style.safetensors")
    pipe, how = load(snapshots["t2v"]), dict(size=(48, 64), steps=2, frames=9)
    lora = lambda scale: dict(path=str(tmp_path / "style.safetensors"), scale=scale)  # noqa: E731
    plain, none, full = (pipe("a cat", loras=loras, **how).frames for loras in ((), (lora(0.0),), (lora(1.0),)))
    assert np.array_equal(plain, none) and not np.array_equal(plain, full)


def test_a_video_of_an_odd_number_of_latents_is_made_anew_by_the_later_release(snapshots):
    """17 frames are 5 latents, and a token has two."""
    pixels = np.random.default_rng(2).integers(0, 255, (17, 48, 64, 3), dtype=np.uint8)
    video = load(snapshots["t2v_15"])("a cat", start=Start(pixels, 16.0), strength=0.5, steps=2, size=(48, 64))
    assert video.frames.shape == (17, 48, 64, 3)


def test_one_step_leaves_nothing_of_it_for_the_usual_strength(snapshots):
    start = Start(np.zeros((9, 48, 64, 3), np.uint8), 8.0)
    with pytest.raises(UserError, match=r"strength 0\.8 leaves none of 1 steps"):
        load(snapshots["t2v"])("a cat", start=start, steps=1)


def test_passes_are_equal_parts_of_all_rows():
    assert [largest_divisor(14, most) for most in (14, 10, 7, 3, 1)] == [14, 7, 7, 2, 1]


def test_three_videos_go_through_in_parts_of_the_same_size(snapshots):
    pipe = load(snapshots["t2v"])
    request = pipe.request(["a cat", "a dog", "a bird"], size=(48, 64), steps=2, frames=9)
    whole, parted = (pipe.run(request, steps=pipe.sampler.steps(request, rows)) for rows in (None, dict(pieces=4)))
    assert np.abs(whole.frames.astype(int) - parted.frames).max() <= 1


@pytest.mark.parametrize(
    ("fields", "said"),
    [
        (dict(frames=10), "8n \\+ 1 frames, at most 49; got 10, choose 9"),
        (dict(frames=57), "at most 49"),
        (dict(size=(50, 64)), "multiples of 16, got 50x64; 48x64"),
        (dict(first_image=np.zeros((8, 8, 3), np.uint8)), "text alone"),
        (dict(strength=0.5), "--from-video"),
        (dict(fps=12.0), "do not take fps"),
        (dict(steps=1001), "at most 1000 steps"),
        (dict(strength=1.5), "strength"),
        (dict(guidance=1.0, negative_prompt="rain"), "leads away from nothing"),
        (dict(loras=(dict(path="/nowhere.safetensors"),)), "does not exist"),
    ],
)
def test_what_the_weights_cannot_make_is_said_in_a_sentence(snapshots, fields, said):
    with pytest.raises(UserError, match=said):
        load(snapshots["t2v"])("a cat", **fields)


def test_image_weights_ask_for_a_picture(snapshots):
    with pytest.raises(UserError, match="--first-frame"):
        load(snapshots["i2v"])("a cat")


def test_what_is_said_of_a_cache_is_refused(snapshots):
    with pytest.raises(UserError, match="no cache"):
        load(snapshots["t2v"], growing_cache=True)


def test_a_folder_of_another_pipeline_is_refused(tmp_path):
    (tmp_path / "model_index.json").write_text(json.dumps({"_class_name": "StableDiffusionPipeline"}))
    with pytest.raises(UserError, match="StableDiffusionPipeline"):
        load(tmp_path)


def test_a_plan_that_does_not_fit_goes_by_passes_videos_and_tiles(snapshots):
    pipe = load(snapshots["t2v"])
    sampler, weights = pipe.sampler, pipe.sampler.weights
    weights.vae = weights.vae.clone(config=dataclasses.replace(weights.vae.config, sample_height=96, sample_width=80))
    request = pipe.request(["a cat", "a dog"], size=(112, 96), steps=2, frames=9)
    names = {step.name: (step.rows, step.limit) for step in sampler.steps(request)}
    assert names["denoising"] == (4, "passes") and names["pixels"] == (4, "pieces")
    steps = {step.name: step for step in sampler.steps(request, {"passes": 1, "pieces": 1})}
    assert steps["denoising"].rows == 1 and steps["pixels"].rows == 1
    whole, tiled = (sampler.steps(request, {"pieces": pieces})[-1].programs() for pieces in (4, 1))
    assert sum(calls for _, calls in whole) == 1 and sum(calls for _, calls in tiled) > 2
