"""`--profile START:STOP`: a trace of some steps for TensorBoard or Perfetto."""

import re
from pathlib import Path
from typing import NamedTuple

import jax
from absl import logging

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import PyTree


class Profiled(NamedTuple):
    """Steps that are traced: from `start` on, as far as `stop`, which is not traced any more."""

    start: int
    stop: int


def read_profiled(text: str) -> Profiled:
    """The steps that START:STOP names. Raises UserError if it should look otherwise."""
    match = re.fullmatch(r"(\d{1,12}):(\d{1,12})", text)
    if match is None or int(match[1]) >= int(match[2]):
        raise UserError(f"--profile {text} should look like 100:110, the first step and the one after the last")
    return Profiled(int(match[1]), int(match[2]))


class StepProfile:
    """Traces steps of a run into a folder.

    Args:
      steps: None traces nothing.
      first_step, last_step: of this run.

    Raises:
      UserError: the steps are not all in this run.
    """

    def __init__(self, folder: Path, steps: Profiled | None, *, first_step: int, last_step: int):
        self._folder, self._steps, self._running = folder, steps, False
        if steps is not None and not first_step <= steps.start < steps.stop <= last_step:
            raise UserError(
                f"--profile {steps.start}:{steps.stop} must lie between the steps {first_step} and {last_step}, which "
                "are those of this run"
            )

    def before(self, step: int) -> None:
        """To be called before each step."""
        if self._steps is not None and step == self._steps.start:
            jax.profiler.start_trace(str(self._folder))
            self._running = True

    def after(self, step: int, state: PyTree) -> None:
        """To be called after each step, with the number of steps taken; waits for the last that is traced."""
        if self._running and step == self._steps.stop:
            jax.block_until_ready(state)
            self.close()
            logging.info("the profile of steps %d to %d is in %s", self._steps.start, step - 1, self._folder)

    def close(self) -> None:
        """Ends a trace that is under way."""
        if self._running:
            jax.profiler.stop_trace()
            self._running = False
