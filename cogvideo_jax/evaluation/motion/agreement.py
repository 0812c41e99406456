"""Text agreement of generated videos, and distance of interpolated frames from the true path.

Measured on the drawn clips of data/motion, where judge.py sees what a person sees; in the paper people judged the
relevance to the text (section 5.2). At least half of the sentences name a combination of object, colour and action that
training never showed.

    report = run("weights", prompts=200, seed=0, batch_size=8, out="report.json")
    print(report_text(report))
"""

import json
from collections import Counter
from collections.abc import Collection, Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from cogvideo_jax.data.motion import draw as motion
from cogvideo_jax.errors import UserError
from cogvideo_jax.evaluation.motion.judge import Judgement, judge
from cogvideo_jax.evaluation.motion.superres_psnr import superres_psnr
from cogvideo_jax.interface import Start, make_request
from cogvideo_jax.notation import Bool, Float, Int, UInt8
from cogvideo_jax.runtime.files import require_free, write_text
from cogvideo_jax.text_to_video import TextToVideo, load

LANGUAGES = ("EN", "ZH")
TRAITS = ("object", "colour", "action")
KEY_STEP = (motion.FRAMES - 1) // 4  # between the 5 key frames of a whole clip
REAL_CLIPS = 140  # for the accuracy of the judge: ten of each action
INTERPOLATED_CLIPS = 56  # four of each action
SUPERRES_CLIPS = 14  # one of each action


class Prompt(NamedTuple):
    """Requested object, colour and action; `held_out` if training never showed the three together."""

    object: str
    colour: str
    action: str
    language: str
    held_out: bool

    @property
    def text(self) -> str:
        """Sentence in the plain wording."""
        spec = motion.MotionSpec(self.object, self.colour, self.action, (0, 0))
        return motion.captions(spec)[LANGUAGES.index(self.language)]


def agreement_prompts(count: int = 200, *, seed: int, held_out_share: float = 0.5) -> list[Prompt]:
    """Prompts that balance actions, languages and held-out combinations against each other.

    Args:
      held_out_share: at least this share has held-out combinations.

    Raises:
      UserError: fewer than one prompt, or a share outside 0 to 1.
    """
    if count < 1 or not 0 <= held_out_share <= 1:
        raise UserError(f"expected prompts >= 1 and a share of 0 to 1, got {count} and {held_out_share}")
    rng = np.random.default_rng(seed)
    shuffled = [motion.combinations()[i] for i in rng.permutation(len(motion.combinations()))]
    decks = {}
    for combination in shuffled:
        decks.setdefault((combination[2], motion.held_out(*combination)), []).append(combination)
    drawn = Counter()
    prompts = []
    for i in range(count):
        pair, language = i // 2, LANGUAGES[i % 2]
        unseen = bool(np.ceil((pair + 1) * held_out_share) > np.ceil(pair * held_out_share))
        # the action drawn least often so far, and least often in this language and group
        action = min(motion.ACTIONS, key=lambda a: (drawn[a], drawn[a, language, unseen], drawn[a, unseen]))
        deck = decks[action, unseen]
        prompts.append(Prompt(*deck[drawn[action, unseen] % len(deck)], language, unseen))
        drawn.update([action, (action, unseen), (action, language, unseen)])
    return prompts


def clip_specs(prompts: Sequence[Prompt], *, seed: int) -> list[motion.MotionSpec]:
    """Specifications of real clips for the prompts."""
    rng = np.random.default_rng(seed)
    return [motion.draw_spec(rng, prompt[:3]) for prompt in prompts]


# Text agreement -----------------------------------------------------------------------------------


def evaluate_checker(clips: Sequence[motion.MotionSpec], *, tokenizer: Any = None) -> dict:
    """Percent of real clips that are judged correctly: as drawn and, given a tokenizer, as decoded.

    Decoded clips are the upper limit for generated ones.
    """
    drawn = [judge(motion.render(spec)) for spec in clips]
    report = {"clips": len(clips), "drawn": _percent_right(clips, drawn)}
    if tokenizer is not None:
        decoded = [judge(reconstruct(tokenizer, motion.render(spec))) for spec in clips]
        report["decoded"] = _percent_right(clips, decoded)
    return report


def generate_and_judge(pipe: TextToVideo, prompts: Sequence[Prompt], *, seed: int, batch_size: int) -> list[Judgement]:
    """Generates a video of each prompt and judges it; the batch size does not change the videos.

    Raises:
      UserError: a batch size below 1.
    """
    if batch_size < 1:
        raise UserError(f"expected a batch size of at least 1, got {batch_size}")
    judgements: list[Judgement] = []
    for start in range(0, len(prompts), batch_size):
        rows = [row % len(prompts) for row in range(start, start + batch_size)]  # full batches: one set of programs
        texts = tuple(prompts[row].text for row in rows)
        request = make_request(prompts=texts, seeds=(seed,) * batch_size, copies=tuple(rows), superres=False)
        judgements += [judge(clip) for clip in pipe.run(request).frames]
    return judgements[: len(prompts)]


def evaluate_agreement(prompts: Sequence[Prompt], judgements: Sequence[Judgement]) -> dict:
    """Percent of videos with the right object, colour, action and all three, and confusions between actions."""
    groups = {
        "all": [True] * len(prompts),
        "unseen": [p.held_out for p in prompts],
        "seen": [not p.held_out for p in prompts],
        **{language: [p.language == language for p in prompts] for language in LANGUAGES},
    }
    right = {}
    for name, chosen in groups.items():
        picked = [pair for pair, take in zip(zip(prompts, judgements), chosen) if take]
        if picked:
            right[name] = {"videos": len(picked), **_percent_right(*zip(*picked))}
    actions = {}
    for action in motion.ACTIONS:
        shown = Counter(j.action for p, j in zip(prompts, judgements) if p.action == action)
        if shown:
            percent = 100 * shown[action] / shown.total()
            others = {name: n for name, n in shown.most_common() if name != action}
            actions[action] = {"videos": shown.total(), "right": round(percent, 1), "taken for": others}
    return {"chance": _chance(), "right": right, "actions": actions}


def _percent_right(asked: Sequence, judgements: Sequence[Judgement]) -> dict[str, float]:
    """Percent right of each trait and of all three; `asked` has the traits as attributes."""
    pairs = list(zip(asked, judgements))
    hits = np.array([[getattr(a, trait) == getattr(j, trait) for trait in TRAITS] for a, j in pairs])
    percent = [*100 * hits.mean(0), 100 * hits.all(1).mean()]
    return {name: round(float(value), 1) for name, value in zip((*TRAITS, "all three"), percent)}


def _chance() -> dict[str, float]:
    """Percent right for random objects, colours and actions."""
    sizes = np.array([len(motion.OBJECTS), len(motion.COLOURS), len(motion.ACTIONS)])
    percent = [*100 / sizes, 100 / sizes.prod()]
    return {name: round(float(value), 2) for name, value in zip((*TRAITS, "all three"), percent)}


# Interpolation ------------------------------------------------------------------------------------


def interpolation_error(pipe: TextToVideo, clips: Sequence[motion.MotionSpec], *, seed: int) -> dict:
    """Distance of the object from its true path, in pixels, in the frames interpolated between real key frames.

    Also the distance in the same frames when the tokenizer only encodes and decodes them, and when each frame repeats
    the key frame before it.
    """
    tracks = {"interpolated": [], "encoded and decoded": [], "key frame repeated": []}
    for number, spec in enumerate(clips):
        start = Start(motion.render(spec)[_is_key_frame(motion.FRAMES)], motion.FPS / KEY_STEP)
        how = dict(seeds=(seed,), copies=(number,), start=start, superres=False)
        [made] = pipe.run(make_request(prompts=(motion.captions(spec)[0],), **how)).frames
        times = _times(len(made))
        new = ~_is_key_frame(len(made))
        path = motion.path(spec)
        decoded = reconstruct(pipe.sampler.tokenizer, motion.render(spec)[times])
        centres = (judge(made).centres, judge(decoded).centres, path[times // KEY_STEP * KEY_STEP])
        for rows, centre in zip(tracks.values(), centres):
            rows.append(np.linalg.norm(centre - path[times], axis=-1)[new])
    return {"clips": len(clips)} | {name: _distances(rows) for name, rows in tracks.items()}


def generated_interpolation_error(prompts: Sequence[Prompt], judgements: Sequence[Judgement]) -> dict:
    """Distance of generated, interpolated frames from the path of the action, starting at the video's first frame.

    Only videos with the right action count. The path is that of the prompt, not of the key frames, whose own distance
    is given too.
    """
    apart = {"interpolated": [], "key frames": []}
    right = [(p, j) for p, j in zip(prompts, judgements) if p.action == j.action]
    for prompt, judgement in right:
        way = motion.path(motion.MotionSpec("square", "black", prompt.action, (0, 0)))
        centres = judgement.centres - judgement.centres[0]
        distance = np.linalg.norm(centres - way[_times(len(centres))], axis=-1)
        key = _is_key_frame(len(centres))
        apart["interpolated"].append(distance[~key])
        apart["key frames"].append(distance[key][1:])  # the first frame is the anchor
    return {"clips": len(right)} | {name: _distances(rows) for name, rows in apart.items()}


def reconstruct(tokenizer: Any, frames: UInt8[np.ndarray, "T H W 3"]) -> UInt8[np.ndarray, "T H W 3"]:
    """Frames encoded and decoded."""
    return np.asarray(tokenizer.decode(tokenizer.encode(frames)))


def _times(frames: int) -> Int[np.ndarray, "T"]:
    """Indices of evenly spaced frames in a whole clip."""
    return np.linspace(0, motion.FRAMES - 1, frames).astype(int)


def _is_key_frame(frames: int) -> Bool[np.ndarray, "T"]:
    return _times(frames) % KEY_STEP == 0


def _distances(rows: list[Float[np.ndarray, "T"]]) -> dict:
    """Median and 90th percentile; frames without an object are only counted."""
    values = np.concatenate(rows) if rows else np.zeros(0)
    seen = values[~np.isnan(values)]
    shares = {"median": 50, "90 %": 90}
    figures = {name: round(float(np.percentile(seen, q)), 2) if len(seen) else None for name, q in shares.items()}
    return {"frames": len(values), "empty": len(values) - len(seen), **figures}


# Report -------------------------------------------------------------------------------------------


def run(
    weights: str | Path | None,
    *,
    prompts: int,
    seed: int,
    batch_size: int,
    int8: Collection[str] = (),
    out: str | Path | None = None,
    replace: bool = False,
) -> dict:
    """Measures a folder of weights; writes the report as JSON if `out` is given.

    Args:
      prompts: number of videos to generate.
      batch_size: videos generated together.
      int8: as in `load`.
      replace: take the place of an older report.

    Raises:
      UserError: numbers below 1, weights that cannot be read, or a report that cannot be written.
    """
    if out is not None:
        require_free(out, replace=replace)
    asked = agreement_prompts(prompts, seed=seed)
    pipe = load(weights, int8=int8)
    real = clip_specs(agreement_prompts(REAL_CLIPS, seed=seed), seed=seed)
    unseen = clip_specs(agreement_prompts(INTERPOLATED_CLIPS, seed=seed, held_out_share=1.0), seed=seed)
    judgements = generate_and_judge(pipe, asked, seed=seed, batch_size=batch_size)
    report = {
        "weights": str(weights or "demo"),
        "prompts": prompts,
        "seed": seed,
        "int8": list(int8),
        "agreement": evaluate_agreement(asked, judgements),
        "checker": evaluate_checker(real, tokenizer=pipe.sampler.tokenizer),
        "interpolation": interpolation_error(pipe, unseen, seed=seed),
        "generated interpolation": generated_interpolation_error(asked, judgements),
    }
    if pipe.sampler.has_superres:
        report["superres"] = superres_psnr(pipe, unseen[:SUPERRES_CLIPS], seed=seed)
    if out is not None:
        write_text(out, json.dumps(report, indent=1) + "\n", replace=replace)
    return report


def report_text(report: dict) -> str:
    """Report of `run` as tables for a terminal."""
    agreement, checker = report["agreement"], report["checker"]
    lines = [f"percent right of {report['prompts']} generated videos"]
    lines.append(_row("", ["videos", *TRAITS, "all three"]))
    lines += [_row(name, values.values()) for name, values in agreement["right"].items()]
    lines.append(_row("chance", ["", *agreement["chance"].values()]))
    for kind in ("drawn", "decoded"):
        if kind in checker:
            lines.append(_row(f"real clips, {kind}", [checker["clips"], *checker[kind].values()]))
    lines += ["", _row("action", ["videos", "right", "taken for"])]
    for action, values in agreement["actions"].items():
        others = ", ".join(f"{name} {count}" for name, count in values["taken for"].items())
        lines.append(_row(action, [values["videos"], values["right"]]) + "  " + others)
    lines += ["", "pixels from the path, interpolated frames"]
    lines.append(_row("", ["frames", "empty", "median", "90 %"]))
    for title, key in (("real key frames", "interpolation"), ("generated", "generated interpolation")):
        lines.append(f"{title}, {report[key]['clips']} clips")
        rows = ((name, v) for name, v in report[key].items() if isinstance(v, dict))
        lines += [_row("  " + name, values.values()) for name, values in rows]
    if "superres" in report:
        figures = report["superres"]
        lines += ["", f"PSNR of the object's pixels in large frames, {figures['clips']} real clips"]
        lines += [_row("  " + name, [value]) for name, value in figures.items() if name != "clips"]
    return "\n".join(line.rstrip() for line in lines)


def _row(name: str, cells: Iterable) -> str:
    return f"{name:27}" + "".join(f"{'-' if cell is None else cell:>11}" for cell in cells)
