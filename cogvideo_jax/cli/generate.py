"""`cogvideo generate`: prompts in, files out."""

import contextlib
import sys
from argparse import ArgumentParser, BooleanOptionalAction, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from cogvideo_jax.cli import options as shared
from cogvideo_jax.errors import UserError

if TYPE_CHECKING:
    from cogvideo_jax.interface import Request
    from cogvideo_jax.text_to_video import TextToVideo

# Options that say how the work is done; all others decide how a video looks, and stand in its record.
HOW = {
    "command",
    "run",
    "traceback",
    "dry_run",
    "prompt",
    "prompts",
    "num",
    "batch",
    "out",
    "one_stage_at_a_time",
    "tensor",
    "sequence",
    "fsdp",
    "compilation_cache",
    "growing_cache",
    "force",
}


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """The options of `cogvideo generate`."""
    parser.description = "Writes a video of a sentence."
    parser.add_argument("prompt", nargs="?", help="what the video shows")
    parser.add_argument("--prompts", metavar="FILE", help="one prompt a line instead of PROMPT")
    parser.add_argument("--num", type=int, default=1, help="videos a prompt")
    parser.add_argument("--batch", type=int, default=4, help="videos made together")
    parser.add_argument("--fps", type=float, help="frames a second; by default the most the weights give")
    parser.add_argument("--seconds", type=float, help="length; by default the shortest the weights give")
    parser.add_argument("--guidance", type=float, help="scale of classifier-free guidance; 1 turns it off")
    parser.add_argument("--frames", type=int, help="length in frames, where the weights count so")
    parser.add_argument(
        "--size", metavar="HEIGHTxWIDTH", help="of the frames in pixels, where the weights leave it open"
    )
    parser.add_argument("--steps", type=int, help="of denoising, where the weights denoise")
    parser.add_argument(
        "--lora", metavar="FILE[=SCALE]", action="append", default=[], help="low-rank changes; repeatable"
    )
    parser.add_argument("--sampler", choices=("ddim", "dpm"), help="of denoising; by default what the weights want")
    parser.add_argument(
        "--dynamic-guidance", action=BooleanOptionalAction, help="let the scale of guidance change from step to step"
    )
    parser.add_argument("--negative-prompt", metavar="TEXT", help="what guidance leads away from")
    parser.add_argument("--first-frame", metavar="IMAGE", help="the picture the videos start from")
    parser.add_argument("--from-video", metavar="FILE", help="the video to make anew in part, by weights that denoise")
    parser.add_argument("--strength", type=float, help="how much of it is made anew, up to 1")
    parser.add_argument("--out", default=".", help="a folder, or a file name for one video")
    what = parser.add_mutually_exclusive_group()
    what.add_argument("--image", action="store_true", help="a single picture, as PNG")
    what.add_argument("--key-frames", action="store_true", help="stage 1 alone; `cogvideo interpolate` goes on from it")
    shared.add_weights(parser)
    parser.set_defaults(run=run)


def run(options: Namespace, rest: list[str]) -> int:
    """Makes what is asked for, or shows what it would take; of many prompts, what is not there yet."""
    from cogvideo_jax.jobs import names_file
    from cogvideo_jax.runtime.files import held

    folder = options.prompts and not names_file(options.out, allowed_of(options))
    with held(options.out) if folder and not options.dry_run else contextlib.nullcontext():
        return _make(options, keeps_record=folder)


def allowed_of(options: Namespace) -> tuple[str, ...]:
    """Suffixes that --out may have."""
    return (".png",) if options.image else (*shared.CLIPS, *([".keyframes"] if options.key_frames else []))


def _make(options: Namespace, *, keeps_record: bool) -> int:
    from cogvideo_jax import jobs as job
    from cogvideo_jax.cli.dry_run import show_steps
    from cogvideo_jax.models import registry
    from cogvideo_jax.runtime.files import folder_digest, require_free
    from cogvideo_jax.runtime.memory import require, tell_peak
    from cogvideo_jax.runtime.record import FILE as RECORD
    from cogvideo_jax.runtime.record import Record

    prompts = prompts_of(options)
    formats = [".png"] if options.image else shared.formats_of(options)
    jobs = job.plan_jobs(prompts, num=options.num, out=options.out, formats=formats, allowed=allowed_of(options))
    pipe = shared.open_weights(options)
    wish = wish_of(options, pipe)
    jobs, complaints = job.usable(pipe, jobs, wish)
    for complaint in complaints:
        print(f"cogvideo generate: {complaint}", file=sys.stderr)
    status = 2 if complaints else 0
    asked = {name: value for name, value in vars(options).items() if name not in HOW}
    record = Record(None, asked)
    if keeps_record:
        digest = folder_digest(registry.folder_of(options.weights))
        record = Record(Path(options.out) / RECORD, asked, weights_digest=digest)
    left = job.left_to_do(jobs, record)
    if len(left) < len(jobs):
        print(f"cogvideo generate: {len(jobs) - len(left)} videos are there already", file=sys.stderr)
    if not left:
        return status
    for one in left:
        for file in job.files_of(one.path, formats, key_frames=options.key_frames):
            require_free(file, replace=options.force)
    together = shared.batch_together(options, len(left))
    first = job.request_of((left * together)[:together], wish, seed=options.seed)
    planned = pipe.plan(first)
    if options.dry_run:
        show_steps(planned, batches=-(-len(left) // together))
        return status
    peak = require(planned.phases)
    rows = {step.limit: step.rows for step in planned.steps if step.limit}
    how = dict(pipe=pipe, wish=wish, seed=options.seed, together=together, rows=rows)
    for path in job.run_jobs(left, **how, formats=formats, record=record, replace=options.force):
        print(path)
    tell_peak(peak)
    return status


def prompts_of(options: Namespace) -> list[str]:
    """The prompt, or those of a file. Raises UserError unless it is one of both."""
    from cogvideo_jax.runtime.prompts import read_prompts

    if (options.prompt is None) == (options.prompts is None):
        raise UserError("give either a prompt or --prompts FILE")
    return [options.prompt] if options.prompts is None else read_prompts(options.prompts)


def wish_of(options: Namespace, pipe: "TextToVideo") -> "Request":
    """What is asked of every prompt; the prompt of this request stands for those to come."""
    from cogvideo_jax.interface import Lora, Start, make_request, size_of
    from cogvideo_jax.runtime.media import read_image, read_video

    names = (
        "fps",
        "seconds",
        "guidance",
        "frames",
        "steps",
        "sampler",
        "dynamic_guidance",
        "negative_prompt",
        "strength",
    )
    fields: dict[str, Any] = {name: getattr(options, name) for name in names}
    if options.size:
        fields["size"] = size_of(options.size, option="--size")
    if options.lora:
        fields["loras"] = tuple(map(Lora.of, options.lora))
    if options.first_frame:
        fields["first_image"] = read_image(options.first_frame, size=pipe.sampler.picture_size)
    fields |= dict(superres=False) if options.no_superres else {}
    fields |= dict(compat=options.compat) if options.compat != "exact" else {}
    fields |= dict(output="image") if options.image else dict(output="key_frames") if options.key_frames else {}
    wish = make_request(prompts=("any",), **{name: value for name, value in fields.items() if value is not None})
    if options.from_video is None:
        return wish
    fps = pipe.sampler.start_fps(None, None)
    frames = read_video(options.from_video, fps=fps, max_seconds=pipe.sampler.start_seconds(wish))
    return make_request(
        **{name: getattr(wish, name) for name in wish.model_fields_set} | dict(start=Start(frames, fps))
    )
