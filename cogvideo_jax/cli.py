"""The command `cogvideo`. Every wrong input ends in one sentence on stderr and exit code 2; Ctrl-C ends with 130."""

import argparse
import sys
from collections.abc import Sequence

from absl import logging


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    logging.set_verbosity(logging.INFO)
    logging.get_absl_handler().addFilter(lambda record: "orbax" not in record.pathname)
    parser = _parser()
    known, rest = parser.parse_known_args(arguments)
    if rest and known.command != "train":
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

    train = commands.add_parser("train", help="train one part", description="Any key: --config.KEY=VALUE")
    train.add_argument("--config", required=True, help="a file of configs/")
    train.add_argument("--workdir", required=True, help="checkpoints, metrics and weights go here")
    train.set_defaults(run=_train)

    generate = commands.add_parser("generate", help="prompt -> video", description="Writes a video of a sentence.")
    generate.add_argument("prompt", nargs="?", help="English or Chinese")
    generate.add_argument("--prompts", metavar="FILE", help="one prompt a line instead of PROMPT")
    generate.add_argument("--weights", help="folder of weights; by default those of the demo")
    generate.add_argument("--seed", type=int, default=0)
    generate.add_argument("--num", type=int, default=1, help="videos a prompt")
    generate.add_argument("--batch", type=int, default=4, help="videos made together")
    generate.add_argument("--fps", type=float, help="frames a second; by default the most the weights give")
    generate.add_argument("--seconds", type=float, help="length; by default the shortest the weights give")
    generate.add_argument("--guidance", type=float, help="scale in stage 1; 1 turns it off")
    generate.add_argument("--first-frame", metavar="IMAGE", help="the picture the videos start from")
    generate.add_argument("--out", default=".", help="a folder, or a file name for one video")
    generate.add_argument("--gif", action="store_true", help="also write a gif")
    generate.add_argument("--sheet", action="store_true", help="also write a PNG contact sheet")
    generate.set_defaults(run=_generate)

    assemble = commands.add_parser("assemble", help="join trained parts into a folder of weights")
    for part in ("tokenizer", "base", "stage1", "stage2"):
        assemble.add_argument(f"--{part}", required=True, help=f"weights.safetensors of the {part}")
    assemble.add_argument("--text-model", required=True, help="text.model of the token cache")
    assemble.add_argument("--recipe", required=True, help="pipeline.json: how to sample")
    assemble.add_argument("--out", required=True, help="folder to write")
    assemble.set_defaults(run=_assemble)

    evaluate = commands.add_parser("evaluate", help="how often the demo's videos show what was asked for")
    evaluate.add_argument("--weights", help="folder of weights; by default those of the demo")
    evaluate.add_argument("--prompts", type=int, default=200, help="how many prompts")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--batch", type=int, default=20, help="videos made together")
    evaluate.add_argument("--out", help="also write the report as JSON")
    evaluate.set_defaults(run=_evaluate)

    tokenize = commands.add_parser("tokenize", help="turn clips into a token cache, once")
    tokenize.add_argument("--source", required=True, help="captioned_motion, or a folder with captions.jsonl")
    tokenize.add_argument("--tokenizer", required=True, help="weights of a trained tokenizer")
    tokenize.add_argument("--out", required=True, help="folder of the cache")
    tokenize.add_argument("--text-model", help="an existing text model; by default one is fitted to the captions")
    tokenize.add_argument("--text-pieces", type=int, default=640, help="size of a newly fitted text model")
    tokenize.add_argument("--size", type=int, default=64, help="side of the frames in pixels")
    tokenize.add_argument("--data-dir", default="data/tfds", help="where captioned_motion is kept")
    tokenize.add_argument("--clips", type=int, default=10_000, help="training clips of captioned_motion")
    tokenize.set_defaults(run=_tokenize)
    return parser


def _train(options, overrides: list[str]) -> int:
    from cogvideo_jax.training.config_files import load_config
    from cogvideo_jax.training.loop import Interrupted, train

    config = load_config(options.config, overrides)
    try:
        weights = train(config, options.workdir)
    except Interrupted as stop:
        print(f"cogvideo train: {stop}", file=sys.stderr)
        return 130
    print(weights)
    return 0


def _generate(options, _) -> int:
    from cogvideo_jax import generate as job
    from cogvideo_jax.runtime.video_io import read_image
    from cogvideo_jax.text_to_video import DEMO_WEIGHTS, TextToVideo

    if (options.prompt is None) == (options.prompts is None):
        raise ValueError("give either a prompt or --prompts FILE")
    prompts = [options.prompt] if options.prompts is None else job.read_prompts(options.prompts)
    formats = [".mp4", *([".gif"] if options.gif else []), *([job.SHEET] if options.sheet else [])]
    jobs = job.plan_jobs(prompts, num=options.num, out=options.out, formats=formats)
    video = TextToVideo.load(options.weights or DEMO_WEIGHTS)
    image = options.first_frame and read_image(options.first_frame, size=video.recipe.pixels)
    written, complaints = job.run_jobs(
        video,
        jobs,
        seed=options.seed,
        batch=options.batch,
        formats=formats,
        fps=options.fps,
        seconds=options.seconds,
        guidance=options.guidance,
        first_image=image,
    )
    for path in written:
        print(path)
    for complaint in complaints:
        print(f"cogvideo generate: {complaint}", file=sys.stderr)
    return 2 if complaints else 0


def _evaluate(options, _) -> int:
    from cogvideo_jax.evaluation.text_agreement import report_text, run
    from cogvideo_jax.text_to_video import DEMO_WEIGHTS

    weights = options.weights or DEMO_WEIGHTS
    report = run(weights, prompts=options.prompts, seed=options.seed, batch_size=options.batch, out=options.out)
    print(report_text(report))
    return 0


def _assemble(options, _) -> int:
    from cogvideo_jax.assemble import assemble

    parts = {part: getattr(options, part) for part in ("tokenizer", "base", "stage1", "stage2")}
    print(assemble(parts, text_model=options.text_model, recipe=options.recipe, out=options.out))
    return 0


def _tokenize(options, _) -> int:
    from cogvideo_jax.data.captions import place_text_model
    from cogvideo_jax.data.clips import open_source
    from cogvideo_jax.data.tokenize import write_token_cache
    from cogvideo_jax.tokens.vq_tokenizer import load_tokenizer

    tokenizer = load_tokenizer(options.tokenizer)
    source = open_source(options.source, size=options.size, data_dir=options.data_dir, train_clips=options.clips)
    cache = write_token_cache(source, tokenizer.encode, options.out, fingerprint=tokenizer.fingerprint)
    place_text_model(cache, options.text_model, pieces=options.text_pieces)
    source.warn_of_skipped()
    print(f"{len(cache)} clips in {options.out}, {len(cache.meta['skipped'])} skipped")
    return 0


def _sentence(error: Exception) -> str:
    """An exception as one line."""
    return " ".join(str(error).split()) or type(error).__name__
