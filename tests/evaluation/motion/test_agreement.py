"""Prompts are balanced, and the report tells a pipeline that obeys its prompts from one that does not."""

import json
from collections import Counter

import jax
import numpy as np
import pytest

from cogvideo_jax.data.motion import draw as motion
from cogvideo_jax.evaluation.motion import agreement as text_agreement
from cogvideo_jax.evaluation.motion.agreement import (
    Prompt,
    agreement_prompts,
    clip_specs,
    evaluate_agreement,
    evaluate_checker,
    generate_and_judge,
    generated_interpolation_error,
    interpolation_error,
    report_text,
)
from cogvideo_jax.interface import Clips

PLAIN = {
    caption: combination
    for combination in motion.combinations()
    for caption in motion.captions(motion.MotionSpec(*combination, (0, 0)))
}


class PerfectTokenizer:
    def encode(self, frames):
        return frames

    def decode(self, ids):
        return ids


class FakePipe:
    """Draws what it is asked for, or that in one colour; repeats key frames to interpolate."""

    has_superres, tokenizer = False, PerfectTokenizer()
    sampler = property(lambda self: self)

    def __init__(self, colour=None):
        self.colour = colour
        self.batches = []

    def run(self, request):
        assert not request.superres
        if request.start is not None:
            assert request.start.fps == 1.0 and request.start.frames.shape == (5, 64, 64, 3)
            return Clips(request.start.frames[None, np.arange(33) // 8], 8.0)
        self.batches.append(len(request.prompts))
        seeds = np.asarray(jax.random.key_data(request.keys()))
        return Clips(np.stack([self._draw(prompt, seed) for prompt, seed in zip(request.prompts, seeds)]), 8.0)

    def _draw(self, prompt, seed):
        thing, colour, action = PLAIN[prompt]
        spec = motion.draw_spec(np.random.default_rng(seed), (thing, self.colour or colour, action))
        return motion.render(spec)


# Prompts ------------------------------------------------------------------------------------------


def test_every_action_appears_equally_often_and_half_is_unseen():
    prompts = agreement_prompts(224, seed=0)
    assert set(Counter(p.action for p in prompts).values()) == {16}
    assert sum(p.held_out for p in prompts) == 112
    assert all(p.held_out == motion.held_out(p.object, p.colour, p.action) for p in prompts)
    by_kind = Counter((p.action, p.language, p.held_out) for p in prompts)
    assert set(by_kind.values()) == {4} and len(by_kind) == 14 * 2 * 2


@pytest.mark.parametrize("count", [1, 3, 7, 50, 199])
@pytest.mark.parametrize("share", [0.5, 0.7, 1.0])
def test_no_number_of_prompts_has_too_few_unseen_ones(count, share):
    prompts = agreement_prompts(count, seed=1, held_out_share=share)
    assert len(prompts) == count and sum(p.held_out for p in prompts) >= share * count


def test_prompts_follow_from_the_seed():
    assert agreement_prompts(60, seed=3) == agreement_prompts(60, seed=3) != agreement_prompts(60, seed=4)


def test_a_combination_is_asked_again_only_when_its_action_has_no_other():
    prompts = agreement_prompts(200, seed=3)
    asked = Counter(p[:3] for p in prompts)
    for (thing, colour, action), times in asked.items():
        unseen = motion.held_out(thing, colour, action)
        others = [c for c in motion.combinations() if c[2] == action and motion.held_out(*c) == unseen]
        assert times == 1 or all(asked[c] >= times - 1 for c in others)


def test_a_prompt_speaks_its_language():
    what = ("ball", "red", "moves up")
    assert Prompt(*what, "EN", False).text == "a red ball moves up"
    assert Prompt(*what, "ZH", False).text == "红色的球向上移动"


def test_impossible_numbers_are_refused():
    with pytest.raises(ValueError, match="prompts >= 1"):
        agreement_prompts(0, seed=0)
    with pytest.raises(ValueError, match="share"):
        agreement_prompts(10, seed=0, held_out_share=1.5)
    with pytest.raises(ValueError, match="batch size"):
        generate_and_judge(FakePipe(), agreement_prompts(2, seed=0), seed=0, batch_size=0)


# Agreement ----------------------------------------------------------------------------------------


def test_a_pipeline_that_obeys_gets_everything_right_in_full_batches():
    prompts, video = agreement_prompts(28, seed=0), FakePipe()
    judgements = generate_and_judge(video, prompts, seed=0, batch_size=8)
    report = evaluate_agreement(prompts, judgements)
    assert video.batches == [8, 8, 8, 8]
    perfect = {"object": 100.0, "colour": 100.0, "action": 100.0, "all three": 100.0}
    assert report["right"]["all"] == {"videos": 28, **perfect}
    assert report["right"]["seen"]["videos"] + report["right"]["unseen"]["videos"] == 28
    assert all(values == {"videos": 2, "right": 100.0, "taken for": {}} for values in report["actions"].values())


def test_videos_do_not_depend_on_the_batch_size():
    prompts = agreement_prompts(5, seed=0)
    small, large = (generate_and_judge(FakePipe(), prompts, seed=1, batch_size=n) for n in (2, 8))
    for a, b in zip(small, large):
        np.testing.assert_array_equal(a.centres, b.centres)


def test_a_pipeline_that_knows_one_colour_only_is_found_out():
    prompts = agreement_prompts(28, seed=0)
    judgements = generate_and_judge(FakePipe("blue"), prompts, seed=0, batch_size=14)
    right = evaluate_agreement(prompts, judgements)["right"]["all"]
    assert right["object"] == right["action"] == 100
    assert right["colour"] == right["all three"] == round(100 * np.mean([p.colour == "blue" for p in prompts]), 1)


def test_actions_that_are_taken_for_others_are_named():
    prompts = [Prompt("ball", "red", action, "EN", False) for action in ("jumps", "jumps", "grows")]
    judgements = generate_and_judge(FakePipe(), prompts[2:] * 3, seed=0, batch_size=3)
    report = evaluate_agreement(prompts, judgements)
    assert report["actions"]["jumps"] == {"videos": 2, "right": 0.0, "taken for": {"grows": 2}}
    assert list(report["actions"]) == ["jumps", "grows"] and "unseen" not in report["right"]


def test_chance_levels_are_those_of_the_vocabulary():
    prompts = agreement_prompts(1, seed=0)
    judgements = generate_and_judge(FakePipe(), prompts, seed=0, batch_size=1)
    expected = {"object": 14.29, "colour": 16.67, "action": 7.14, "all three": 0.17}
    assert evaluate_agreement(prompts, judgements)["chance"] == expected


def test_the_checker_is_right_about_drawn_and_decoded_clips():
    report = evaluate_checker(clip_specs(agreement_prompts(28, seed=0), seed=0), tokenizer=PerfectTokenizer())
    assert report["drawn"]["all three"] == report["decoded"]["all three"] == 100


# Interpolation ------------------------------------------------------------------------------------


def test_repeated_key_frames_are_as_far_off_as_they_are():
    clips = [motion.MotionSpec("square", "red", "moves right", (12, 20))] * 2
    report = interpolation_error(FakePipe(), clips, seed=0)
    assert report["interpolated"] == report["key frame repeated"]
    assert report["interpolated"] == {
        "frames": 56,
        "empty": 0,
        "median": 4.0,
        "90 %": 6.0,
    }  # 0 to 6 pixels behind
    assert report["encoded and decoded"]["90 %"] < 0.05


def test_generated_videos_count_from_their_own_first_frame_if_the_action_is_right():
    prompts = [Prompt("ball", "red", "circles", "EN", False), Prompt("ball", "red", "jumps", "EN", False)]
    circle = generate_and_judge(FakePipe(), prompts[:1], seed=0, batch_size=1)[0]
    late = circle._replace(centres=circle.centres + np.where(np.arange(33) % 8, 2.0, 0.0)[:, None] * [1, 0])
    report = generated_interpolation_error(prompts, [late, circle])
    assert report["clips"] == 1
    assert report["interpolated"] == {"frames": 28, "empty": 0, "median": 2.0, "90 %": 2.0}
    assert report["key frames"]["90 %"] < 0.05
    assert generated_interpolation_error(prompts[1:], [circle])["interpolated"]["median"] is None


# Report -------------------------------------------------------------------------------------------


def test_run_writes_a_report_that_can_be_read_on_a_terminal(tmp_path, monkeypatch):
    monkeypatch.setattr(text_agreement, "load", lambda _, int8: FakePipe())
    monkeypatch.setattr(text_agreement, "REAL_CLIPS", 4)
    monkeypatch.setattr(text_agreement, "INTERPOLATED_CLIPS", 2)
    report = text_agreement.run("weights", prompts=4, seed=0, batch_size=2, out=tmp_path / "report.json")
    assert json.loads((tmp_path / "report.json").read_text()) == report
    text = report_text(report)
    assert "percent right of 4 generated videos" in text and "chance" in text
    assert max(map(len, text.splitlines())) <= 100
