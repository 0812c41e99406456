"""Errors that a user can mend. `cli.main` prints them as one sentence; every other exception is a bug."""

import contextlib
from collections.abc import Iterator


class UserError(ValueError):
    """One sentence: what is wrong, what was expected, what to do."""


class Busy(UserError):
    """Another process is writing the same file or folder."""


class ConversionError(UserError):
    """A checkpoint that cannot be converted, and why."""


class NonFiniteLoss(UserError, FloatingPointError):
    """Training that diverged; names the step."""


@contextlib.contextmanager
def conversion_errors(sentence: str) -> Iterator[None]:
    """Turns whatever a parser of foreign bytes raises into a ConversionError with this sentence.

    Parsers of zip, pickle and JSON raise nearly every kind of exception on bytes that were made to break them, so this
    is the one place that catches them all. A UserError passes unchanged.
    """
    try:
        yield
    except UserError:
        raise
    except Exception as error:
        raise ConversionError(sentence) from error
