"""The checker reads drawn clips as a person would, also damaged ones, and says when nothing fits."""

import numpy as np
import pytest

from cogvideo_jax.data.motion import draw as motion
from cogvideo_jax.evaluation.motion.judge import judge


def random_specs(per_action):
    """Clips of every action with random objects, colours and starts."""
    rng = np.random.default_rng(0)
    combinations = motion.combinations()
    groups = [[c for c in combinations if c[2] == action] for action in motion.ACTIONS]
    return [motion.draw_spec(rng, group[rng.integers(len(group))]) for group in groups for _ in range(per_action)]


def share_right(specs, clips):
    judged = [judge(clip)[:3] for clip in clips]
    return np.mean([shown == (spec.object, spec.colour, spec.action) for spec, shown in zip(specs, judged)])


def blurred(clip, noise):
    """Softened twice over 3 pixels, with noise of a given strength on all pixels."""
    pixels = clip.astype(float)
    for axis in (1, 2, 1, 2):
        pixels = (np.roll(pixels, 1, axis) + 2 * pixels + np.roll(pixels, -1, axis)) / 4
    pixels += np.random.default_rng(0).normal(0, noise, pixels.shape)
    return np.rint(pixels).clip(0, 255).astype(np.uint8)


def still(spec):
    return np.repeat(motion.render(spec)[:1], motion.FRAMES, 0)


@pytest.fixture(scope="module")
def real():
    specs = random_specs(10)
    return specs, [motion.render(spec) for spec in specs]


@pytest.mark.parametrize("step", [1, 2, 4, 8])
def test_real_clips_are_read_rightly_at_every_frame_rate(real, step):
    specs, clips = real
    assert share_right(specs, [clip[::step] for clip in clips]) >= 0.99


@pytest.mark.parametrize("step", [1, 8])
def test_blurred_and_noisy_clips_are_read_rightly(real, step):
    specs, clips = (half[::2] for half in real)
    assert share_right(specs, [blurred(clip[::step], noise=6) for clip in clips]) >= 0.98


def test_centres_and_sides_are_those_of_the_drawing(real):
    for spec, clip in list(zip(*real))[::5]:
        seen = judge(clip)
        np.testing.assert_allclose(seen.centres, motion.path(spec), atol=0.1)
        np.testing.assert_array_equal(seen.sides, motion.sides(spec))
        assert seen.empty_frames == 0


def test_centres_of_blurred_clips_are_good_to_a_third_of_a_pixel(real):
    for spec, clip in list(zip(*real))[::13]:
        away = np.linalg.norm(judge(blurred(clip, noise=3)).centres - motion.path(spec), axis=-1)
        assert np.percentile(away, 90) < 0.34


def test_an_empty_video_shows_nothing():
    seen = judge(np.full((33, 64, 64, 3), 255, np.uint8))
    assert seen[:3] == ("none", "none", "none") and seen.empty_frames == 33
    assert np.isnan(seen.centres).all() and np.isnan(seen.sides).all()


@pytest.mark.parametrize("frames", [5, 33])
@pytest.mark.parametrize("name", list(motion.OBJECTS))
def test_an_object_that_stands_still_does_nothing(name, frames):
    spec = motion.MotionSpec(name, "blue", "jumps", (24, 32))
    assert judge(still(spec)[:frames])[:3] == (name, "blue", "none")


def test_an_object_of_another_size_moves_all_the_same():
    large = motion.render(motion.MotionSpec("ball", "red", "grows", (16, 32)))[-1]
    clip = np.stack([np.roll(large, t, axis=1) for t in range(33)])
    seen = judge(clip)
    assert seen[:3] == ("ball", "red", "moves right") and (seen.sides == 24).all()


def test_a_turn_that_stops_half_way_is_no_spin():
    clip = motion.render(motion.MotionSpec("seven", "red", "spins clockwise", (32, 32)))
    clip[12:] = clip[12]
    assert judge(clip)[:3] == ("seven", "red", "none")


def test_a_way_backwards_in_time_is_another_action():
    clip = motion.render(motion.MotionSpec("four", "black", "bounces right", (16, 40)))
    assert judge(clip[::-1]).action == "bounces left"


def test_another_colour_object_or_action_is_seen():
    def shown(*what):
        return judge(motion.render(motion.MotionSpec(*what, (32, 24))))[:3]

    assert shown("ball", "red", "grows") == ("ball", "red", "grows")
    assert shown("ball", "purple", "grows") == ("ball", "purple", "grows")
    assert shown("cross", "red", "grows") == ("cross", "red", "grows")
    assert shown("ball", "red", "circles") == ("ball", "red", "circles")


def test_a_few_bad_frames_and_specks_do_not_matter():
    clip = motion.render(motion.MotionSpec("triangle", "green", "moves down", (12, 12)))
    clip[5] = 255
    clip[9], clip[20] = clip[30], clip[0]
    clip[:, 60:62, 58:60] = (220, 30, 30)
    seen = judge(clip)
    assert seen[:3] == ("triangle", "green", "moves down") and seen.empty_frames == 1
    assert np.isnan(seen.centres[5]).all() and not np.isnan(seen.centres[4]).any()


def test_random_dots_are_no_object():
    dots = np.random.default_rng(0).random((64, 64)) < 0.3
    dots[:20] = dots[40:] = dots[:, :20] = dots[:, 40:] = False
    clip = np.full((33, 64, 64, 3), 255, np.uint8)
    clip[:, dots] = (20, 20, 20)
    assert judge(clip)[:3] == ("none", "black", "none")


def test_other_shapes_types_and_lengths_are_refused(unchecked_annotations):
    with pytest.raises(ValueError, match="uint8"):
        judge(np.ones((33, 64, 64, 3), np.float32))
    with pytest.raises(ValueError, match="64, 64"):
        judge(np.ones((33, 32, 32, 3), np.uint8))
    with pytest.raises(ValueError, match="one of"):
        judge(np.ones((16, 64, 64, 3), np.uint8))
