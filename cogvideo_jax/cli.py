"""The command `cogvideo`. Every wrong input ends in one sentence on stderr and exit code 2; Ctrl-C ends with 130."""

import argparse
import sys
from collections.abc import Sequence

from absl import logging
def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit code."""
    logging.set_verbosity(logging.INFO)
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

    tokenize = commands.add_parser("tokenize", help="turn clips into a token cache, once")
    tokenize.add_argument("--source", required=True, help="captioned_motion, or a folder with captions.jsonl")
    tokenize.add_argument("--tokenizer", required=True, help="weights of a trained tokenizer")
    tokenize.add_argument("--out", required=True, help="folder of the cache")
    tokenize.add_argument("--text-model", help="an existing text model; by default one is fitted to the captions")
    tokenize.add_argument("--text-pieces", type=int, default=512, help="size of a newly fitted text model")
    tokenize.add_argument("--size", type=int, default=64, help="side of the frames in pixels")
    tokenize.add_argument("--data-dir", default="data/tfds", help="where captioned_motion is kept")
    tokenize.add_argument("--clips", type=int, default=16_000, help="training clips of captioned_motion")
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
