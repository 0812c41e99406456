"""The command `cogvideo`. Every wrong input ends in one sentence on stderr and exit code 2; Ctrl-C ends with 130."""

import argparse
import functools
import re
import sys
from collections.abc import Sequence
from pathlib import Path

from absl import logging

CONVERTED = ("base", "stage1", "stage2", "superres", "itersr", "tokenizer")


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(lambda record: "orbax" not in record.pathname)
    parser = _parser()
    known, rest = parser.parse_known_args(arguments)
    if rest and "config" not in known:
        parser.error(f"unknown argument {rest[0]}")
    try:
        return known.run(known, rest) or 0
    except (ValueError, FloatingPointError, OSError) as error:
        print(f"cogvideo {known.command}: {_sentence(error)}", file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print(f"cogvideo {known.command}: stopped", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(prog="cogvideo", description="Text to video by transformers, in JAX.")
    commands = parser.add_subparsers(dest="command", required=True)
    _add_train(commands, _train)
    _add_generate(commands, _generate)
    for add in (_add_interpolate, _add_plan, _add_assemble, _add_evaluate, _add_tokenize, _add_convert):
        add(commands)
    return parser


def _add_train(commands, run) -> None:
    train = commands.add_parser("train", help="train one part", description="Any key: --config.KEY=VALUE")
    train.add_argument("--config", required=True, help="a file of configs/")
    train.add_argument("--workdir", required=run is _train, help="checkpoints, metrics and weights go here")
    if run is _plan_train:
        train.add_argument("--topology", help="compile for TPUs that are not here, e.g. v5e:16x16 or 2*v5p:4x4x4")
    if run is _train:
        train.add_argument("--distributed", action="store_true", help="as one of the processes that launch/ starts")
    train.set_defaults(run=run)


def _add_generate(commands, run) -> None:
    generate = commands.add_parser("generate", help="prompt -> video", description="Writes a video of a sentence.")
    generate.add_argument("prompt", nargs="?", help="English or Chinese")
    generate.add_argument("--prompts", metavar="FILE", help="one prompt a line instead of PROMPT")
    generate.add_argument("--num", type=int, default=1, help="videos a prompt")
    generate.add_argument("--batch", type=int, default=4, help="videos made together")
    generate.add_argument("--fps", type=float, help="frames a second; by default the most the weights give")
    generate.add_argument("--seconds", type=float, help="length; by default the shortest the weights give")
    generate.add_argument("--guidance", type=float, help="scale in stage 1; 1 turns it off")
    generate.add_argument("--first-frame", metavar="IMAGE", help="the picture the videos start from")
    generate.add_argument("--out", default=".", help="a folder, or a file name for one video")
    what = generate.add_mutually_exclusive_group()
    what.add_argument("--image", action="store_true", help="a picture by the base alone, as PNG")
    what.add_argument("--key-frames", action="store_true", help="stage 1 alone; `cogvideo interpolate` goes on from it")
    _add_running(generate)
    generate.set_defaults(run=run)


def _add_interpolate(commands) -> None:
    interpolate = commands.add_parser("interpolate", help="frames between frames", description="Stage 2 alone.")
    interpolate.add_argument("source", help="what `generate --key-frames` wrote, or a video")
    interpolate.add_argument("--prompt", help="what the video shows; needed for a video")
    interpolate.add_argument("--fps", type=float, help="frames a second of the result; by default the most")
    interpolate.add_argument("--from-fps", type=float, help="of a video: at which rate to read it; by default half")
    interpolate.add_argument("--seconds", type=float, default=4.0, help="of a video: how much of it to read")
    interpolate.add_argument("--out", default=".", help="a folder or a file name")
    _add_running(interpolate)
    interpolate.set_defaults(run=_interpolate)


def _add_plan(commands) -> None:
    plan = commands.add_parser(
        "plan", help="memory that a run will take", description="Loads no transformer and runs nothing."
    )
    what = plan.add_subparsers(dest="what", required=True)
    _add_train(what, _plan_train)
    _add_generate(what, _plan_generate)


def _add_assemble(commands) -> None:
    assemble = commands.add_parser("assemble", help="join trained parts into a folder of weights")
    for part in ("tokenizer", "base", "stage1", "stage2"):
        assemble.add_argument(f"--{part}", required=True, help=f"weights.safetensors of the {part}")
    assemble.add_argument("--superres", help="weights.safetensors of direct super-resolution")
    assemble.add_argument("--text-model", required=True, help="text.model of the token cache")
    assemble.add_argument("--recipe", required=True, help="pipeline.json: how to sample")
    assemble.add_argument("--out", required=True, help="folder to write")
    assemble.set_defaults(run=_assemble)


def _add_evaluate(commands) -> None:
    evaluate = commands.add_parser("evaluate", help="how often the demo's videos show what was asked for")
    evaluate.add_argument("--weights", help="folder of weights; by default those of the demo")
    evaluate.add_argument("--prompts", type=int, default=200, help="how many prompts")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--batch", type=int, default=20, help="videos made together")
    evaluate.add_argument("--out", help="also write the report as JSON")
    evaluate.set_defaults(run=_evaluate)


def _add_tokenize(commands) -> None:
    tokenize = commands.add_parser("tokenize", help="turn clips into a token cache, once")
    tokenize.add_argument("--source", required=True, help="captioned_motion, or a folder with captions.jsonl")
    tokenize.add_argument("--tokenizer", required=True, help="weights of a trained tokenizer")
    tokenize.add_argument("--out", required=True, help="folder of the cache")
    tokenize.add_argument("--text-model", help="an existing text model; by default one is fitted to the captions")
    tokenize.add_argument("--text-pieces", type=int, default=640, help="size of a newly fitted text model")
    tokenize.add_argument("--size", type=int, default=64, help="side of the frames in pixels")
    tokenize.add_argument("--coarse-size", type=int, help="also keep the ids of frames shrunk to this side")
    tokenize.add_argument("--data-dir", default="data/tfds", help="where captioned_motion is kept")
    tokenize.add_argument("--worker", default="0/1", metavar="I/N", help="do a share only; the last of N joins all")
    tokenize.add_argument("--clips", type=int, default=10_000, help="training clips of captioned_motion")
    tokenize.set_defaults(run=_tokenize)


def _add_convert(commands) -> None:
    convert = commands.add_parser("convert", help="released PyTorch weights <-> a folder of weights")
    convert.add_argument(
        "source",
        help="SAT folder or its zip, .pt or safetensors file; ice_text.model; cluster_label2.npy; or our folder",
    )
    convert.add_argument("target", help="our folder of weights; or what to write with --to-official")
    convert.add_argument("--part", choices=CONVERTED, help="what SOURCE is, where it does not tell; what to export")
    convert.add_argument("--heads", type=int, help="attention heads, where no model_config.json tells them")
    convert.add_argument("--drop-unexpected", action="store_true", help="leave out names that are not known")
    convert.add_argument("--to-official", action="store_true", help="the way back: a new folder, .pt or .safetensors")
    convert.set_defaults(run=_convert)


def _add_running(command: argparse.ArgumentParser) -> None:
    """What `generate` and `interpolate` share: the weights, how they are run, and what is written."""
    command.add_argument("--weights", help="folder of weights; by default those of the demo")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--gif", action="store_true", help="also write a gif")
    command.add_argument("--sheet", action="store_true", help="also write a PNG contact sheet")
    command.add_argument("--no-upscale", action="store_true", help="leave out super-resolution")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), help="by default float32 on a CPU, else bfloat16")
    command.add_argument("--one-stage-at-a-time", action="store_true", help="least memory: load each stage anew")
    command.add_argument("--compat", choices=("exact", "release"), default="exact", help="release: with its quirks")


def _open_weights(options):
    from cogvideo_jax.text_to_video import DEMO_WEIGHTS, TextToVideo

    folder, keep = options.weights or DEMO_WEIGHTS, not options.one_stage_at_a_time
    return TextToVideo.load(folder, dtype=options.dtype, keep=keep)


def _train(options, overrides: list[str]) -> int:
    from cogvideo_jax.runtime.processes import join
    from cogvideo_jax.training.config_files import load_config
    from cogvideo_jax.training.loop import Interrupted, train

    config = load_config(options.config, overrides)
    if options.distributed:
        join()
    try:
        weights = train(config, options.workdir)
    except Interrupted as stop:
        print(f"cogvideo train: {stop}", file=sys.stderr)
        return 130
    print(weights)
    return 0


def _plan_train(options, overrides: list[str]) -> int:
    from cogvideo_jax.training.config_files import load_config
    from cogvideo_jax.training.foretell import describe, foretell
    from cogvideo_jax.training.loop import plan

    config = load_config(options.config, overrides)
    if options.topology is None:
        return _show_plan(plan(config))
    foretold = foretell(config, options.topology)
    print(describe(foretold))
    return 0 if foretold.fits else 2


def _plan_generate(options, _) -> int:
    video = _open_weights(options)
    together = min(options.batch, options.num * len(_prompts(options)))
    return _show_plan(_plan_of(video, options, together))


def _show_plan(phases) -> int:
    from cogvideo_jax.runtime.memory import require, room, table

    has = room()
    print(table(phases, has))
    require(phases, has)
    return 0


def _plan_of(video, options, together: int):
    """Phases of a call of `generate` that makes so many videos together."""
    from cogvideo_jax.model.config import Compat
    from cogvideo_jax.plan import Request, plan_generation

    _, rates = video.schedule(options.fps, options.seconds)
    request = Request(
        together,
        rounds=0 if options.image or options.key_frames else len(rates),
        key_frames=not options.image,
        first_image=options.first_frame is not None,
        guidance=options.guidance,
        upscale=not options.no_upscale,
        compat=Compat(options.compat),
    )
    return plan_generation(video, request)


def _prompts(options) -> list[str]:
    from cogvideo_jax import generate as job

    if (options.prompt is None) == (options.prompts is None):
        raise ValueError("give either a prompt or --prompts FILE")
    return [options.prompt] if options.prompts is None else job.read_prompts(options.prompts)


def _generate(options, _) -> int:
    from cogvideo_jax import generate as job
    from cogvideo_jax.runtime.memory import require, tell_peak

    prompts = _prompts(options)
    formats = [job.SHEET] if options.image else _formats(options)
    jobs = job.plan_jobs(prompts, num=options.num, out=options.out, formats=formats)
    video = _open_weights(options)
    jobs, complaints = job.usable(video, jobs)
    for complaint in complaints:
        print(f"cogvideo generate: {complaint}", file=sys.stderr)
    if not jobs:
        return 2
    planned = require(_plan_of(video, options, min(options.batch, len(jobs))))
    make, write = _picture(video, options) if options.image else _video(video, options, formats)
    for path in job.run_jobs(jobs, seed=options.seed, batch=options.batch, make=make, write=write):
        print(path)
    tell_peak(planned)
    return 2 if complaints else 0


def _formats(options) -> list[str]:
    from cogvideo_jax import generate as job

    return [".mp4", *([".gif"] if options.gif else []), *([job.SHEET] if options.sheet else [])]


def _picture(video, options):
    """How `run_jobs` makes and writes a picture."""
    from cogvideo_jax import generate as job
    from cogvideo_jax.model.config import Compat

    settings = dict(upscale=not options.no_upscale, compat=Compat(options.compat), progress=True)
    return functools.partial(video.image, **settings), lambda path, _, picture: job.write_picture(path, picture)


def _video(video, options, formats: list[str]):
    """How `run_jobs` makes and writes a video; with --key-frames its ids too."""
    from cogvideo_jax import generate as job
    from cogvideo_jax.model.config import Compat
    from cogvideo_jax.runtime.video_io import read_image

    fps = video.rate(options.fps, options.seconds)
    image = options.first_frame and read_image(options.first_frame, size=video.recipe.pixels)
    settings = dict(seconds=options.seconds, guidance=options.guidance, first_image=image)
    compat, upscale = Compat(options.compat), not options.no_upscale
    if not options.key_frames:
        settings |= dict(fps=options.fps, upscale=upscale, compat=compat, progress=True)
        write_one = functools.partial(job.write_clip, fps=fps, formats=formats)
        return functools.partial(video, **settings), lambda path, _, clip: write_one(path, clip)

    def make_key_frames(prompts, keys):
        ids = video.key_frames(prompts, keys, compat=compat, **settings)
        return list(zip(ids, video.pixels(ids, prompts, keys, upscale=upscale, compat=compat)))

    def write_both(path, prompt, result):
        ids, clip = result
        rate, _ = video.schedule(None, options.seconds)
        saved = job.write_key_frames(path, ids, prompt=prompt, fps=rate, tokenizer=video.tokenizer.fingerprint)
        return saved + job.write_clip(path.with_suffix(".mp4"), clip, fps=rate, formats=formats)

    return make_key_frames, write_both


def _interpolate(options, _) -> int:
    import jax

    from cogvideo_jax import generate as job
    from cogvideo_jax.model.config import Compat
    from cogvideo_jax.plan import Request, plan_generation
    from cogvideo_jax.runtime.memory import require

    source, formats = Path(options.source), _formats(options)
    [target] = job.plan_jobs([source.stem], num=1, out=options.out, formats=formats)
    video = _open_weights(options)
    to = max(video.recipe.interpolation_fps) if options.fps is None else options.fps
    if source.suffix == job.KEY_FRAMES:
        frames, prompt, fps = job.read_key_frames(source, tokenizer=video.tokenizer.fingerprint)
    else:
        prompt, fps = options.prompt, options.from_fps or to / 2
        if not prompt:
            raise ValueError("say what the video shows: --prompt TEXT")
        video.doublings(fps, to)  # refuses a rate before a long video is read
        frames = job.read_frames(source, fps=fps, size=video.recipe.pixels, max_seconds=options.seconds)
    settings = dict(upscale=not options.no_upscale, compat=Compat(options.compat))
    request = Request(1, rounds=len(video.doublings(fps, to)), start=len(frames), key_frames=False, **settings)
    require(plan_generation(video, request))
    settings |= dict(progress=True)
    [clip] = video.interpolate(
        frames[None], [options.prompt or prompt], jax.random.key(options.seed), fps=fps, to=to, **settings
    )
    for path in job.write_clip(target.path, clip, fps=to, formats=formats):
        print(path)
    return 0


def _evaluate(options, _) -> int:
    from cogvideo_jax.evaluation.text_agreement import report_text, run
    from cogvideo_jax.text_to_video import DEMO_WEIGHTS

    weights = options.weights or DEMO_WEIGHTS
    report = run(weights, prompts=options.prompts, seed=options.seed, batch_size=options.batch, out=options.out)
    print(report_text(report))
    return 0


def _assemble(options, _) -> int:
    from cogvideo_jax.assemble import assemble

    parts = {part: getattr(options, part) for part in ("tokenizer", "base", "stage1", "stage2", "superres")}
    parts = {part: path for part, path in parts.items() if path is not None}
    print(assemble(parts, text_model=options.text_model, recipe=options.recipe, out=options.out))
    return 0


def _tokenize(options, _) -> int:
    from cogvideo_jax.data.captions import place_text_model
    from cogvideo_jax.data.sources import open_source
    from cogvideo_jax.data.tokenize import write_token_cache
    from cogvideo_jax.tokens.vq_tokenizer import load_tokenizer

    worker = re.fullmatch(r"(\d+)/(\d+)", options.worker)
    if worker is None:
        raise ValueError(f"--worker {options.worker} should look like 0/8: this one, and how many there are")
    tokenizer = load_tokenizer(options.tokenizer)
    source = open_source(options.source, size=options.size, data_dir=options.data_dir, train_clips=options.clips)
    settings = dict(fingerprint=tokenizer.fingerprint, coarse_size=options.coarse_size)
    settings["worker"] = tuple(map(int, worker.groups()))
    cache = write_token_cache(source, tokenizer.encode, options.out, **settings)
    if cache is None:
        print(f"worker {options.worker} is done; {options.out} is whole when the others are")
        return 0
    place_text_model(cache, options.text_model, pieces=options.text_pieces)
    source.warn_of_skipped()
    print(f"{len(cache)} clips in {options.out}, {len(cache.meta['skipped'])} skipped")
    return 0


def _convert(options, _) -> int:
    from cogvideo_jax.assemble import add_labels, add_text_model
    from cogvideo_jax.convert.to_official import convert_back
    from cogvideo_jax.convert.to_ours import convert
    from cogvideo_jax.recipe import FILE, RELEASED, write_recipe

    if options.to_official:
        if options.part is None:
            raise ValueError("--to-official needs --part: the part of SOURCE to export")
        print(convert_back(options.source, options.target, part=options.part))
        return 0
    add = {".model": add_text_model, ".npy": add_labels}.get(Path(options.source).suffix)
    if add is not None:
        print(add(options.source, options.target))
        return 0
    settings = dict(part=options.part, heads=options.heads, drop_unexpected=options.drop_unexpected)
    converted = convert(options.source, options.target, **settings)
    recipe = Path(options.target) / FILE
    if not recipe.exists():
        write_recipe(recipe, RELEASED)
    print(*converted.files, sep="\n")
    for note in converted.notes:
        print(f"cogvideo convert: {note}", file=sys.stderr)
    return 0


def _sentence(error: Exception) -> str:
    """An exception as one line."""
    return " ".join(str(error).split()) or type(error).__name__
