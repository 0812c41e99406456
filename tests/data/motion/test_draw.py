"""Drawn actions: the object stays inside, moves as its action says, and the captions are short."""

import numpy as np
import pytest

from cogvideo_jax.data.motion import draw as motion

KEY_FRAMES = [0, 8, 16, 24, 32]
CHANGING = ["grows", "shrinks", *motion.TURNS]  # size or angle


def extreme_specs(action):
    """The action from all four corners of its range of starts."""
    xs, ys = motion.start_choices(action)
    thing = "square" if action in motion.TURNS else "ball"
    return [motion.MotionSpec(thing, "black", action, (int(x), int(y))) for x in xs[[0, -1]] for y in ys[[0, -1]]]


def ink(frame):
    """Sum of darkness: the same in every frame as long as nothing of the object is cut off."""
    return (255 - frame.astype(int)).sum()


@pytest.mark.parametrize("action", [a for a in motion.ACTIONS if a not in CHANGING])
def test_nothing_of_the_object_leaves_the_picture(action):
    for spec in extreme_specs(action):
        assert len({ink(frame) for frame in motion.render(spec)}) == 1


@pytest.mark.parametrize("action", CHANGING)
def test_no_ink_is_missing_at_the_border_when_size_or_angle_changes(action):
    inks = [[ink(frame) for frame in motion.render(spec)] for spec in extreme_specs(action)]
    assert all(row == inks[0] for row in inks)


@pytest.mark.parametrize("action", list(motion.ACTIONS))
def test_the_drawn_centre_follows_the_path_and_key_frames_stand_on_the_grid(action):
    for spec in extreme_specs(action):
        centres = motion.path(spec)
        assert (centres[KEY_FRAMES] % motion.GRID == 0).all()
        dark = 255.0 - motion.render(spec).mean(-1)
        places = np.arange(motion.SIZE) + 0.5
        x = (dark.sum(1) * places).sum(-1) / dark.sum((1, 2))
        y = (dark.sum(2) * places).sum(-1) / dark.sum((1, 2))
        np.testing.assert_allclose(np.stack([x, y], -1), centres, atol=0.05)


def test_straight_moves_cover_32_pixels_and_round_trips_end_where_they_began():
    def way(action):
        return motion.path(motion.MotionSpec("ball", "red", action, (32, 32))) - 32

    np.testing.assert_array_equal(way("moves right")[-1], [32, 0])
    np.testing.assert_array_equal(way("moves up")[-1], [0, -32])
    np.testing.assert_array_equal(way("goes left and comes back")[[16, 32]], [[-16, 0], [0, 0]])
    np.testing.assert_array_equal(way("bounces left")[KEY_FRAMES, 1], [0, -16, 0, -16, 0])
    np.testing.assert_array_equal(way("circles")[KEY_FRAMES], [[0, 0], [16, 16], [0, 32], [-16, 16], [0, 0]])


def test_growing_and_shrinking_take_two_seconds():
    grown, shrunk = (motion.sides(motion.MotionSpec("ball", "red", way, (32, 32))) for way in ("grows", "shrinks"))
    assert grown[KEY_FRAMES].tolist() == [8, 12, 20, 24, 24]
    assert set(grown) == set(range(8, 25, 2))
    np.testing.assert_array_equal(grown + shrunk, 32)


def test_a_spinning_triangle_is_upside_down_half_way_and_turns_back_in_the_other_direction():
    clockwise, back = (
        motion.render(motion.MotionSpec("triangle", "blue", f"spins {way}", (32, 32)))
        for way in ("clockwise", "counterclockwise")
    )
    np.testing.assert_array_equal(clockwise[16], clockwise[0, ::-1, ::-1])
    np.testing.assert_array_equal(back[::4], clockwise[::-4])
    np.testing.assert_array_equal(clockwise[4], clockwise[7])
    assert (clockwise[3] != clockwise[4]).any()


@pytest.mark.parametrize("step", [4, 2, 1])
@pytest.mark.parametrize("words, read", [(("grows", "shrinks"), motion.sides), (tuple(motion.TURNS), motion.angles)])
def test_opposite_words_show_the_same_new_pictures_between_the_same_neighbours(words, read, step):
    def new(word):
        values = read(motion.MotionSpec("seven", "black", word, (32, 32)))
        between = [(values[t - step], values[t], values[t + step]) for t in range(step, 33 - step, 2 * step)]
        return {(frozenset((before, after)), now) for before, now, after in between if now not in (before, after)}

    one, other = map(new, words)
    assert one == other


def test_opposite_words_show_the_same_pictures_at_the_key_frames():
    for words, read in ((("grows", "shrinks"), motion.sides), (tuple(motion.TURNS), motion.angles)):
        one, other = (set(read(motion.MotionSpec("seven", "black", word, (32, 32)))[KEY_FRAMES]) for word in words)
        assert one == other


def test_every_combination_draws_and_its_captions_are_short():
    rng = np.random.default_rng(0)
    for combination in motion.combinations():
        spec = motion.draw_spec(rng, combination)
        assert motion.render(spec).shape == (33, 64, 64, 3)
        for english, chinese in (motion.captions(spec), motion.captions(spec, rng=rng)):
            assert len(english.split()) <= 9 and spec.colour in english
            assert motion.COLOURS[spec.colour][1] in chinese


def test_plain_captions_are_as_people_would_type_them():
    spec = motion.MotionSpec("three", "red", "moves right", (8, 8))
    assert motion.captions(spec) == ("a red digit three moves to the right", "红色的数字三向右移动")


def test_an_eighth_to_a_sixth_of_the_combinations_are_held_out_but_every_two_of_their_words_are_seen_together():
    held = {c for c in motion.combinations() if motion.held_out(*c)}
    seen = set(motion.combinations()) - held
    assert 1 / 8 < len(held) / len(motion.combinations()) < 1 / 6
    for i, j in ((0, 1), (0, 2), (1, 2)):
        assert {(c[i], c[j]) for c in held} <= {(c[i], c[j]) for c in seen}


def test_an_object_is_seen_in_every_picture_that_a_held_out_action_shows_of_it():
    for thing, colour in {c[:2] for c in motion.combinations()}:
        possible = {c[2] for c in motion.combinations() if c[:2] == (thing, colour)}
        held = {action for action in possible if motion.held_out(thing, colour, action)}
        assert len(held) == motion.HELD_OUT and not any(alike <= held for alike in motion.ALIKE)
        seen = [pictures(thing, colour, action) for action in possible - held]
        assert set.union(*(pictures(thing, colour, action) for action in held)) <= set.union(*seen)


def pictures(thing, colour, action):
    """The 8 x 8 patches of a clip from one start: what the tokenizer makes tokens of."""
    xs, ys = motion.start_choices(action)
    frames = motion.render(motion.MotionSpec(thing, colour, action, (int(xs[0]), int(ys[0]))))
    patches = frames.reshape(33, 8, 8, 8, 8, 3).swapaxes(2, 3).reshape(-1, 8 * 8 * 3)
    return {patch.tobytes() for patch in patches}


def test_motion_is_drawn_on_twos_in_even_pixels():
    for action in motion.ACTIONS:
        clip = motion.render(extreme_specs(action)[0])
        np.testing.assert_array_equal(clip[:-1:2], clip[1::2])
        assert (motion.path(extreme_specs(action)[0]) % 2 == 0).all()


def test_an_object_whose_turn_cannot_be_seen_never_spins():
    with pytest.raises(ValueError, match="no such combination"):
        motion.draw_spec(np.random.default_rng(0), ("ball", "red", "spins clockwise"))


@pytest.mark.parametrize("action", ["circles", "grows", "spins clockwise"])
def test_a_clip_drawn_larger_is_the_same_clip(action):
    for thing in ("triangle", "seven"):
        spec = motion.draw_spec(np.random.default_rng(0), (thing, "blue", action))
        small, large = motion.render(spec), motion.render(spec, scale=3)
        assert large.shape == (33, 192, 192, 3)
        shrunk = large.reshape(33, 64, 3, 64, 3, 3).mean((2, 4))
        difference = np.abs(shrunk - small)
        assert difference.max() < 26 and difference.mean() < 0.2  # rounding, and finer samples of the same edges
        assert len(np.unique(large)) > 3  # anti-aliased
