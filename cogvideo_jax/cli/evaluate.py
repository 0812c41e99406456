"""`cogvideo evaluate`: how often the demo's videos show what was asked for."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from cogvideo_jax.cli import options as shared


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """The options of `cogvideo evaluate`."""
    parser.add_argument("--weights", help=shared.WEIGHTS)
    parser.add_argument("--prompts", type=int, default=200, help="how many prompts")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--batch", type=int, default=20, help="videos made together")
    parser.add_argument("--out", help="also write the report as JSON")
    parser.add_argument("--int8", nargs="+", choices=("weights", "cache"), default=[], help="kept as int8")
    shared.add_force(parser)
    parser.set_defaults(run=run)


def run(options: Namespace, rest: list[str]) -> int:
    """Prints the report."""
    shared.require_extra("train", ("sklearn",))
    from cogvideo_jax.evaluation.motion.agreement import report_text, run

    how = dict(prompts=options.prompts, seed=options.seed, batch_size=options.batch, int8=options.int8)
    print(report_text(run(options.weights, out=options.out, replace=options.force, **how)))
    return 0
