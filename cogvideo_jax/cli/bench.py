"""`cogvideo bench`: speed of every part, as a share of what the machine can do."""

import functools
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from cogvideo_jax.cli import options as shared

if TYPE_CHECKING:
    from cogvideo_jax.interface import Benchmark, Sampler

PIPELINE = "pipeline"


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """One command for each of the family's benchmarks, and one for whole videos."""
    family = shared.add_family(parser, arguments)
    what = parser.add_subparsers(dest="what", required=True)
    for name, benchmark in family.benchmarks.items():
        one = what.add_parser(name, help=benchmark.help)
        benchmark.add_arguments(one)
        _add_shared(one)
        one.set_defaults(run=functools.partial(run, benchmark))
    pipeline = what.add_parser(PIPELINE, help="whole videos, step by step")
    pipeline.add_argument("--weights", help="folder or name on the hub; else the demo's, or random ones of --size")
    sizes = family.sizes or ("demo",)
    pipeline.add_argument("--size", choices=sizes, default=sizes[0], help="of random weights")
    shared.add_opening(pipeline)
    _add_shared(pipeline)
    pipeline.set_defaults(run=run_pipeline)


def _add_shared(parser: ArgumentParser) -> None:
    parser.add_argument("--batch", type=int, nargs="+", help="clips, frames or pictures together")
    parser.add_argument("--dtype", choices=("float32", "bfloat16"), default="float32")
    parser.add_argument("--trace", metavar="FOLDER", help="write a profile for TensorBoard or Perfetto")
    parser.add_argument("--out", help="also write the figures as JSON")


def run(benchmark: "Benchmark", options: Namespace, rest: list[str]) -> int:
    """One of the family's benchmarks."""
    return _report(options, functools.partial(benchmark.measure, options), benchmark.settings(options))


def run_pipeline(options: Namespace, rest: list[str]) -> int:
    """Whole videos."""
    from cogvideo_jax.bench.pipeline import measure_pipeline, since_start

    measure = functools.partial(measure_pipeline, lambda: _open_sampler(options), started=since_start())
    return _report(options, measure, [dict(batch=batch) for batch in options.batch or [1]])


def _open_sampler(options: Namespace) -> "Sampler":
    from cogvideo_jax.models import registry

    family = registry.family(options.family)
    if options.size == "demo" or options.weights or family.random is None:
        return shared.open_weights(options).sampler
    shared.prepare_devices(options)
    return family.random(options.size, shared.opening_of(options))


def _report(options: Namespace, measure: Any, settings: list[dict[str, Any]]) -> int:
    """Measures the machine, then every setting."""
    from cogvideo_jax.bench.machine import measure as measure_machine
    from cogvideo_jax.bench.report import report

    machine = measure_machine(options.dtype)
    asked = {name: value for name, value in vars(options).items() if name not in ("run", "out", "traceback")}
    measure = functools.partial(measure, machine=machine, trace=options.trace)
    return 2 if report(machine, measure, settings, asked=asked, out=options.out) else 0
