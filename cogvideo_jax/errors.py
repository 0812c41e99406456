"""Refusal: a checkpoint that is not converted, and the one sentence that says why."""

import contextlib
from collections.abc import Iterator


class Refusal(ValueError):
    """What is wrong, what was expected, what to do: one sentence for the user."""


@contextlib.contextmanager
def refusing(sentence: str) -> Iterator[None]:
    """Whatever a parser of foreign bytes raises becomes a Refusal with this sentence; Refusals pass unchanged.

    Parsers of zip, pickle and JSON raise nearly every kind of exception on bytes that were made to break them, so this
    is the one place that catches them all.
    """
    try:
        yield
    except Refusal:
        raise
    except Exception as error:
        raise Refusal(sentence) from error
