"""`cogvideo convert`: foreign checkpoints to a folder of weights, and back."""

from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from cogvideo_jax.cli import options as shared
from cogvideo_jax.errors import UserError


def add_arguments(parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """The options of the family that is asked for."""
    family = shared.add_family(parser, arguments)
    if family.convert is not None:
        family.convert.add_arguments(parser)
    parser.set_defaults(run=run)


def run(options: Namespace, rest: list[str]) -> int:
    """Prints the files that were written."""
    from cogvideo_jax.models import registry

    family = registry.family(options.family)
    if family.convert is None:
        raise UserError(f"{family.name} has nothing to convert")
    print(*family.convert.run(options), sep="\n")
    return 0
