"""`cogvideo interpolate`: raises the frame rate of saved key frames, or of a video."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from cogvideo_jax.cli import options as shared
from cogvideo_jax.errors import UserError


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """The options of `cogvideo interpolate`."""
    parser.description = "Puts frames between frames."
    parser.add_argument("source", help="what `generate --key-frames` wrote, or a video")
    parser.add_argument("--prompt", help="what the video shows; needed for a video")
    parser.add_argument("--fps", type=float, help="frames a second of the result; by default the most")
    parser.add_argument("--from-fps", type=float, help="of a video: at which rate to read it; by default half")
    parser.add_argument("--seconds", type=float, default=4.0, help="of a video: how much of it to read")
    parser.add_argument("--out", default=".", help="a folder or a file name")
    shared.add_weights(parser)
    parser.set_defaults(run=run)


def run(options: Namespace, rest: list[str]) -> int:
    """Makes one video."""
    from cogvideo_jax import jobs as job
    from cogvideo_jax.cli.dry_run import show_steps
    from cogvideo_jax.interface import make_request
    from cogvideo_jax.runtime.files import require_free
    from cogvideo_jax.runtime.memory import require
    from cogvideo_jax.text_to_video import KEY_FRAMES

    source, formats = Path(options.source), shared.formats_of(options)
    pipe = shared.open_weights(options)
    if source.suffix == KEY_FRAMES:
        start, prompt = pipe.sampler.read_start(source)
    else:
        prompt, fps = options.prompt, pipe.sampler.start_fps(options.fps, options.from_fps)
        if not prompt:
            raise UserError("say what the video shows: --prompt TEXT")
        size = pipe.sampler.picture_size
        start = job.read_start(source, fps=fps, size=size, max_seconds=options.seconds)
    fields: dict[str, Any] = dict(fps=options.fps) if options.fps else {}
    fields |= dict(superres=False) if options.no_superres else {}
    fields |= dict(compat=options.compat) if options.compat != "exact" else {}
    request = make_request(prompts=(options.prompt or prompt,), seeds=(options.seed,), start=start, **fields)
    name = f"{source.stem}_{pipe.sampler.fps(request):g}fps"
    [target] = job.plan_jobs([name], num=1, out=options.out, formats=formats, allowed=shared.CLIPS)
    for file in job.files_of(target.path, formats, key_frames=False):
        if file.exists() and file.samefile(source):
            raise UserError(f"{file} is the source; choose another --out")
        require_free(file, replace=options.force)
    planned = pipe.plan(request)
    if options.dry_run:
        show_steps(planned)
        return 0
    require(planned.phases)
    [video] = pipe.videos(request, pipe.run(request, steps=planned.steps, progress=True))
    for path in job.save_video(video, target.path, formats, replace=options.force):
        print(path)
    return 0
