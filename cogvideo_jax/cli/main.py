"""The command `cogvideo`. Every wrong input ends in one sentence on stderr and exit code 2; Ctrl-C ends with 130."""

import argparse
import sys
from collections.abc import Sequence

from absl import logging

from cogvideo_jax.cli import commands

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
    choices = parser.add_subparsers(dest="command", required=True)
    _add_train(choices, commands.train)
    _add_generate(choices, commands.generate)
    for add in (_add_interpolate, _add_plan, _add_assemble, _add_evaluate, _add_tokenize, _add_convert, _add_bench):
        add(choices)
    return parser


def _add_train(choices, run) -> None:
    train = choices.add_parser("train", help="train one part", description="Any key: --config.KEY=VALUE")
    train.add_argument("--config", required=True, help="a file of configs/")
    train.add_argument("--workdir", help="checkpoints, metrics and weights go here")
    if run is commands.plan_train:
        train.add_argument("--topology", help="compile for TPUs that are not here, e.g. v5e:16x16 or 2*v5p:4x4x4")
    if run is commands.train:
        train.add_argument("--check", action="store_true", help="only check the config and the files that it names")
        train.add_argument("--distributed", action="store_true", help="as one of the processes that launch/ starts")
    train.set_defaults(run=run)


def _add_generate(choices, run) -> None:
    generate = choices.add_parser("generate", help="prompt -> video", description="Writes a video of a sentence.")
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


def _add_interpolate(choices) -> None:
    interpolate = choices.add_parser("interpolate", help="frames between frames", description="Stage 2 alone.")
    interpolate.add_argument("source", help="what `generate --key-frames` wrote, or a video")
    interpolate.add_argument("--prompt", help="what the video shows; needed for a video")
    interpolate.add_argument("--fps", type=float, help="frames a second of the result; by default the most")
    interpolate.add_argument("--from-fps", type=float, help="of a video: at which rate to read it; by default half")
    interpolate.add_argument("--seconds", type=float, default=4.0, help="of a video: how much of it to read")
    interpolate.add_argument("--out", default=".", help="a folder or a file name")
    _add_running(interpolate)
    interpolate.set_defaults(run=commands.interpolate)


def _add_plan(choices) -> None:
    plan = choices.add_parser(
        "plan", help="memory that a run will take", description="Loads no transformer and runs nothing."
    )
    what = plan.add_subparsers(dest="what", required=True)
    _add_train(what, commands.plan_train)
    _add_generate(what, commands.plan_generate)


def _add_assemble(choices) -> None:
    assemble = choices.add_parser("assemble", help="join trained parts into a folder of weights")
    for part in ("tokenizer", "base", "stage1", "stage2"):
        assemble.add_argument(f"--{part}", required=True, help=f"weights.safetensors of the {part}")
    assemble.add_argument("--superres", help="weights.safetensors of direct super-resolution")
    assemble.add_argument("--text-model", required=True, help="text.model of the token cache")
    assemble.add_argument("--sampling-config", "--recipe", required=True, help="pipeline.json: how to sample")
    assemble.add_argument("--out", required=True, help="folder to write")
    assemble.set_defaults(run=commands.assemble)


def _add_evaluate(choices) -> None:
    evaluate = choices.add_parser("evaluate", help="how often the demo's videos show what was asked for")
    evaluate.add_argument("--weights", help="folder of weights; by default those of the demo")
    evaluate.add_argument("--prompts", type=int, default=200, help="how many prompts")
    evaluate.add_argument("--seed", type=int, default=0)
    evaluate.add_argument("--batch", type=int, default=20, help="videos made together")
    evaluate.add_argument("--out", help="also write the report as JSON")
    _add_int8(evaluate)
    evaluate.set_defaults(run=commands.evaluate)


def _add_tokenize(choices) -> None:
    tokenize = choices.add_parser("tokenize", help="turn clips into a token cache, once")
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
    tokenize.set_defaults(run=commands.tokenize)


def _add_convert(choices) -> None:
    convert = choices.add_parser("convert", help="released PyTorch weights <-> a folder of weights")
    convert.add_argument(
        "source",
        help="SAT folder or its zip, .pt or safetensors file; ice_text.model; cluster_label2.npy; or our folder",
    )
    convert.add_argument("target", help="our folder of weights; or what to write with --to-official")
    convert.add_argument("--part", choices=CONVERTED, help="what SOURCE is, where it does not tell; what to export")
    convert.add_argument("--heads", type=int, help="attention heads, where no model_config.json tells them")
    convert.add_argument("--drop-unexpected", action="store_true", help="leave out names that are not known")
    convert.add_argument("--to-official", action="store_true", help="the way back: a new folder, .pt or .safetensors")
    convert.set_defaults(run=commands.convert)


def _add_bench(choices) -> None:
    bench = choices.add_parser("bench", help="speed, as a share of what this machine can do")
    what = bench.add_subparsers(dest="what", required=True)
    decode = what.add_parser("decode", help="writing tokens")
    decode.add_argument("--guidance", choices=("no", "yes", "both"), default="both")
    decode.add_argument("--window", type=int, help="side of the temporal windows; by default that of the stage")
    decode.add_argument(
        "--sequential", "--one-by-one", action="store_true", help="no frames side by side where windows allow it"
    )
    train = what.add_parser("train", help="the training step of a stage")
    train.add_argument("--remat", choices=("nothing", "all_but_matrices", "everything"), default="nothing")
    train.add_argument("--attention", default="auto", help="auto, xla, splash or cudnn")
    tokenizer = what.add_parser("tokenizer", help="frames to ids and back")
    tokenizer.add_argument("--side", type=int, default=64, help="of the frames, in pixels")
    superres = what.add_parser("superres", help="direct super-resolution")
    pipeline = what.add_parser("pipeline", help="whole videos, part by part")
    pipeline.add_argument("--weights", help="folder of weights; else the demo's, or random ones of another size")
    _add_open(pipeline)
    _add_caches(decode)
    runs = {
        name: getattr(commands, f"bench_{name}") for name in ("decode", "train", "tokenizer", "superres", "pipeline")
    }
    for name, one in dict(
        decode=decode, train=train, tokenizer=tokenizer, superres=superres, pipeline=pipeline
    ).items():
        sizes = ("demo", "full") if one is tokenizer else ("demo", "middle", "full")
        one.add_argument("--size", choices=sizes, default="demo", help="of random weights")
        one.add_argument(
            "--batch", type=int, nargs="+", default=[1, 4, 16] if one is decode else [1], help="side by side"
        )
        one.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
        one.add_argument("--trace", metavar="FOLDER", help="write a profile for TensorBoard or Perfetto")
        one.add_argument("--out", help="also write the figures as JSON")
        one.set_defaults(run=runs[name])
    for one in (decode, train):
        one.add_argument("--stage", choices=("stage1", "stage2"), default="stage1")


def _add_running(command: argparse.ArgumentParser) -> None:
    """What `generate` and `interpolate` share: the weights, how they are run, and what is written."""
    command.add_argument("--weights", help="folder of weights; by default those of the demo")
    command.add_argument("--seed", type=int, default=0)
    command.add_argument("--gif", action="store_true", help="also write a gif")
    command.add_argument("--sheet", action="store_true", help="also write a PNG contact sheet")
    command.add_argument("--no-superres", "--no-upscale", action="store_true", help="leave out super-resolution")
    command.add_argument("--dtype", choices=("float32", "bfloat16"), help="by default float32 on a CPU, else bfloat16")
    _add_open(command)
    command.add_argument("--compat", choices=("exact", "release"), default="exact", help="release: with its quirks")


def _add_open(command: argparse.ArgumentParser) -> None:
    """How weights are opened."""
    _add_caches(command)
    command.add_argument("--tensor", type=int, default=1, help="devices that share one video; others make other videos")
    command.add_argument("--compilation-cache", metavar="FOLDER", help="keep compiled programs here for the next call")
    command.add_argument("--one-stage-at-a-time", action="store_true", help="least memory: load each stage anew")


def _add_caches(command: argparse.ArgumentParser) -> None:
    _add_int8(command)
    what = "a program for every key frame, which reads no frames that are to come: for long work"
    command.add_argument("--growing-cache", action="store_true", help=what)


def _add_int8(command: argparse.ArgumentParser) -> None:
    kinds, what = ("weights", "cache"), "kept as int8: fewer bytes to read, and not quite the same videos"
    command.add_argument("--int8", nargs="+", choices=kinds, default=[], help=what)


def _sentence(error: Exception) -> str:
    """An exception as one line."""
    return " ".join(str(error).split()) or type(error).__name__
