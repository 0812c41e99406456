"""`cogvideo convert` and `cogvideo assemble`: commands whose options and work are those of a family."""

import functools
from argparse import ArgumentParser, Namespace
from collections.abc import Sequence

from cogvideo_jax.cli import options as shared
from cogvideo_jax.errors import UserError


def add_arguments(command: str, parser: ArgumentParser, arguments: Sequence[str]) -> None:
    """The options that the family which is asked for has for a command."""
    offered = getattr(shared.add_family(parser, arguments), command)
    if offered is not None:
        offered.add_arguments(parser)
    shared.add_force(parser)
    parser.set_defaults(run=functools.partial(run, command))


def run(command: str, options: Namespace, rest: list[str]) -> int:
    """Prints the files that were written."""
    from cogvideo_jax.models import registry

    family = registry.family(options.family)
    offered = getattr(family, command)
    if offered is None:
        raise UserError(f"{family.name} has nothing to {command}")
    print(*offered.run(options), sep="\n")
    return 0
