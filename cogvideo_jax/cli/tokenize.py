"""`cogvideo tokenize`: clips become a cache of features, once, so that training never sees a pixel."""

import re
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from pathlib import Path

from cogvideo_jax.cli import options as shared
from cogvideo_jax.errors import UserError


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """The options of `cogvideo tokenize`."""
    parser.add_argument("--source", required=True, help="captioned_motion, or a folder with captions.jsonl")
    parser.add_argument("--tokenizer", required=True, help="weights of a trained tokenizer")
    parser.add_argument("--out", required=True, help="folder of the cache")
    parser.add_argument("--text-model", help="an existing text model; by default one is fitted to the captions")
    parser.add_argument("--text-pieces", type=int, default=640, help="size of a newly fitted text model, at least")
    parser.add_argument("--size", type=int, default=64, help="side of the frames in pixels")
    parser.add_argument("--coarse-size", type=int, help="also keep the ids of frames shrunk to this side")
    parser.add_argument("--data-dir", default="data/tfds", help="where captioned_motion is kept")
    parser.add_argument("--worker", default="0/1", metavar="I/N", help="do a share only; the last of N joins all")
    parser.add_argument("--clips", type=int, default=10_000, help="training clips of captioned_motion")
    parser.add_argument("--force", action="store_true", help="replace a cache of other settings and its text model")
    shared.add_family(parser, arguments)
    parser.set_defaults(run=run)


def run(options: Namespace, rest: list[str]) -> int:
    """Writes this worker's share of the cache."""
    shared.require_extra("train", shared.TRAINING_LIBRARIES)
    from cogvideo_jax.data.cache import require_factor, write_token_cache
    from cogvideo_jax.data.clips import warn_of
    from cogvideo_jax.data.sources import open_source
    from cogvideo_jax.models import registry

    worker = re.fullmatch(r"(\d{1,9})/(\d{1,9})", options.worker, re.ASCII)
    if worker is None:
        raise UserError(f"--worker {options.worker} should look like 0/8: this one, and how many there are")
    family = registry.family(options.family)
    if family.encoder is None:
        raise UserError(f"{family.name} trains on pixels; it needs no cache")
    sizes = [options.size] if options.coarse_size is None else [options.size, options.coarse_size]
    require_factor(*sizes)
    how = dict(text_model=options.text_model, text_pieces=options.text_pieces, replace=options.force)
    encoder = family.encoder(options.tokenizer, **how)
    source = open_source(options.source, size=options.size, data_dir=options.data_dir, train_clips=options.clips)
    encoder.begin(Path(options.out), source.captions(), sizes=sizes)
    settings = dict(fingerprint=encoder.fingerprint, coarse_size=options.coarse_size, replace=options.force)
    settings["worker"] = tuple(map(int, worker.groups()))
    cache = write_token_cache(source, encoder.encode, options.out, **settings)
    if cache is None:
        source.warn_of_skipped()
        print(f"worker {options.worker} is done; {options.out} is whole when the others are")
        return 0
    encoder.finish(cache)
    warn_of(cache.meta.skipped)
    print(f"{len(cache)} clips in {options.out}, {len(cache.meta.skipped)} skipped")
    return 0
