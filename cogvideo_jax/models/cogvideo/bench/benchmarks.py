"""Benchmarks of CogVideo for `cogvideo bench`: their options; the other files of this folder measure."""

import dataclasses
from typing import Any

from cogvideo_jax.bench.report import Measured
from cogvideo_jax.interface import Benchmark

SIZES = ("demo", "middle", "full")
STAGES = ("stage1", "stage2")


def _add_decode(parser: Any) -> None:
    parser.add_argument("--stage", choices=STAGES, default="stage1")
    parser.add_argument("--guidance", choices=("no", "yes", "both"), default="both")
    parser.add_argument("--window", type=int, help="side of the temporal windows; by default that of the stage")
    sequential = "write one frame after another, also where windows allow a wavefront"
    parser.add_argument("--sequential", "--one-by-one", action="store_true", help=sequential)
    parser.add_argument("--int8", nargs="+", choices=("weights", "cache"), default=[])
    parser.add_argument("--growing-cache", action="store_true", help="read existing frames only")
    _add_size(parser, SIZES)


def _decode_settings(options: Any) -> list[dict[str, Any]]:
    guided = {"no": [False], "yes": [True], "both": [False, True]}[options.guidance]
    return [dict(batch=batch, guided=guide) for guide in guided for batch in options.batch or (1, 4, 16)]


def _measure_decode(options: Any, **setting: Any) -> Measured:
    from cogvideo_jax.models.cogvideo.bench import decode
    from cogvideo_jax.models.cogvideo.bench.sizes import sized

    config = sized(options.size, options.stage)
    if options.window:
        config = dataclasses.replace(config, window=options.window)
    how = dict(wavefront=not options.sequential, int8=options.int8, growing_cache=options.growing_cache)
    row = decode.measure_decode(config, dtype=options.dtype, **how, **setting)
    return Measured(row._asdict(), decode.cells(row))


def _add_train(parser: Any) -> None:
    parser.add_argument("--stage", choices=STAGES, default="stage1")
    parser.add_argument("--remat", choices=("nothing", "all_but_matrices", "everything"), default="all_but_matrices")
    parser.add_argument("--attention", default="auto", help="auto, plain, blocked, splash or cudnn")
    _add_size(parser, SIZES)


def _measure_train(options: Any, **setting: Any) -> Measured:
    from cogvideo_jax.models.cogvideo.bench import train
    from cogvideo_jax.models.cogvideo.bench.sizes import sized
    from cogvideo_jax.nn.remat import Remat

    how = dict(dtype=options.dtype, remat=Remat(options.remat), attention=options.attention)
    row = train.measure_train(sized(options.size, options.stage), **how, **setting)
    return Measured(row._asdict() | {"parts": row.parts._asdict()}, train.cells(row))


def _add_tokenizer(parser: Any) -> None:
    parser.add_argument("--side", type=int, default=64, help="of the frames, in pixels")
    _add_size(parser, ("demo", "full"))


def _tokenizer_settings(options: Any) -> list[dict[str, Any]]:
    return [dict(what=what, batch=batch) for what in ("encode", "decode") for batch in options.batch or (1,)]


def _measure_tokenizer(options: Any, **setting: Any) -> Measured:
    from cogvideo_jax.models.cogvideo.bench import tokenizer
    from cogvideo_jax.models.cogvideo.bench.sizes import TOKENIZERS

    row = tokenizer.measure_tokenizer(TOKENIZERS[options.size], side=options.side, **setting)
    return Measured(row._asdict(), tokenizer.cells(row))


def _add_superres(parser: Any) -> None:
    _add_size(parser, SIZES)


def _measure_superres(options: Any, **setting: Any) -> Measured:
    from cogvideo_jax.models.cogvideo.bench import superres
    from cogvideo_jax.models.cogvideo.bench.sizes import sized

    row = superres.measure_superres(sized(options.size, "superres"), dtype=options.dtype, **setting)
    return Measured(row._asdict(), superres.cells(row))


def _add_size(parser: Any, sizes: tuple[str, ...]) -> None:
    parser.add_argument("--size", choices=sizes, default="demo", help="of random weights")


def _batches(options: Any) -> list[dict[str, Any]]:
    return [dict(batch=batch) for batch in options.batch or (1,)]


BENCHMARKS = {
    "decode": Benchmark("writing tokens", _add_decode, _decode_settings, _measure_decode),
    "train": Benchmark("the training step of a stage", _add_train, _batches, _measure_train),
    "tokenizer": Benchmark("frames to ids and back", _add_tokenizer, _tokenizer_settings, _measure_tokenizer),
    "superres": Benchmark("direct super-resolution", _add_superres, _batches, _measure_superres),
}
