"""The command `cogvideo`.

Wrong input ends in one sentence on stderr and exit status 2, Ctrl-C in 130. Any other exception is a bug: it shows its
traceback and where to report it.
"""

import argparse
import importlib
import sys
import traceback
from collections.abc import Sequence
from logging import WARNING, LogRecord

from absl import logging

from cogvideo_jax.errors import UserError

COMMANDS = {
    "generate": "prompt -> video",
    "interpolate": "frames between frames",
    "train": "train one part",
    "tokenize": "turn clips into a token cache, once",
    "plan": "memory that a run will take",
    "evaluate": "how often the demo's videos show what was asked for",
    "convert": "released PyTorch weights <-> a folder of weights",
    "assemble": "join trained parts into a folder of weights",
    "verify": "name what is damaged in weights, a token cache or a workdir",
    "bench": "speed, as a share of what this machine can do",
}
ISSUES = "the project's issue tracker"
USAGE, INTERRUPTED, BUG = 2, 130, 70  # exit statuses; 70 is EX_SOFTWARE


def main(arguments: Sequence[str] | None = None) -> int:
    """Runs one command and returns its exit status."""
    logging.set_verbosity(logging.INFO)
    logging.get_absl_logger().addFilter(_is_ours)
    arguments = sys.argv[1:] if arguments is None else list(arguments)
    parser = _parser(arguments)
    options, rest = parser.parse_known_args(arguments)
    if rest and "config" not in options:
        parser.error(f"unknown argument {rest[0]}")
    return _run(options, rest)


def _is_ours(record: LogRecord) -> bool:
    """False for what orbax tells of its own work, and for its errors, which it raises as well; its warnings stay."""
    return "orbax" not in record.pathname or record.levelno == WARNING


def _run(options: argparse.Namespace, rest: list[str]) -> int:
    try:
        return options.run(options, rest) or 0
    except (UserError, OSError) as error:  # of a disk that is full or gone, the system's own words are the sentence
        if options.traceback:
            traceback.print_exc()
        print(f"cogvideo {options.command}: {_sentence(error)}", file=sys.stderr)
        return USAGE
    except KeyboardInterrupt:
        print(f"cogvideo {options.command}: stopped", file=sys.stderr)
        return INTERRUPTED
    except Exception:
        traceback.print_exc()
        print(
            f"cogvideo {options.command}: this is a bug in cogvideo_jax; please report it, with the lines above and "
            f"the command, to {ISSUES}",
            file=sys.stderr,
        )
        return BUG


def _parser(arguments: Sequence[str]) -> argparse.ArgumentParser:
    """Only the command that is asked for gets its options, so that the others' modules are not imported."""
    parser = argparse.ArgumentParser(prog="cogvideo", description="Text to video by transformers, in JAX.")
    choices = parser.add_subparsers(dest="command", required=True)
    asked = next((word for word in arguments if word in COMMANDS), None)
    for name, help in COMMANDS.items():
        command = choices.add_parser(name, help=help)
        if name == asked:
            importlib.import_module(f"cogvideo_jax.cli.{name}").add_arguments(command, arguments)
    for command in _leaves(parser):
        command.add_argument("--traceback", action="store_true", help="show where an error comes from")
    return parser


def _leaves(parser: argparse.ArgumentParser) -> list[argparse.ArgumentParser]:
    """Parsers of commands without commands of their own."""
    choices = [action for action in parser._actions if isinstance(action, argparse._SubParsersAction)]
    below = [leaf for action in choices for one in action.choices.values() for leaf in _leaves(one)]
    return below if choices else [parser]


def _sentence(error: Exception) -> str:
    """An exception as one line."""
    return " ".join(str(error).split()) or type(error).__name__
