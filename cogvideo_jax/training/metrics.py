"""Figures of a run: JSON lines and TensorBoard on disk, a progress bar on a terminal, plain log lines elsewhere."""

import importlib.util
import json
from pathlib import Path
from typing import Any

from absl import logging
from pydantic import ConfigDict

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.files import write_text
from cogvideo_jax.runtime.jsonl import append_line, read_lines
from cogvideo_jax.runtime.processes import is_first
from cogvideo_jax.runtime.progress import progress_bar
from cogvideo_jax.runtime.schemas import NotNegative, Schema


class Line(Schema):
    """What was measured at one step; a run that diverged may have measured no number."""

    model_config = ConfigDict(extra="allow", allow_inf_nan=True)
    __pydantic_extra__: dict[str, float]

    step: NotNegative


class MetricsWriter:
    """Appends to `metrics.jsonl`; lines after `first_step` of an interrupted run are dropped, they will come again.

    Of several processes the first writes.

    Args:
      tensorboard: folder of the same figures for TensorBoard; None for none.
    """

    def __init__(self, path: Path, *, first_step: int, steps: int, tensorboard: Path | None = None):
        self._tells = is_first()
        self._board = _open_board(tensorboard, first_step) if tensorboard and self._tells else None
        if self._tells:
            kept = [line for line in read_lines(path, Line) if line.step <= first_step]
            lines = "".join(json.dumps(line.model_dump()) + "\n" for line in kept)
            write_text(path, lines, replace=True)
        self._path = path
        self._bar = progress_bar(disable=not self._tells, total=steps, initial=first_step, unit="step")

    def write(self, step: int, values: dict[str, float]) -> None:
        """One line; the bar shows the loss."""
        if self._tells:
            append_line(self._path, json.dumps({"step": step, **{k: float(f"{v:.6g}") for k, v in values.items()}}))
        for name, value in values.items() if self._board else ():
            self._board.add_scalar(name, value, step)
        shown = {name: f"{values[name]:.4g}" for name in ("loss", "tokens_per_second") if name in values}
        self._bar.set_postfix(shown, refresh=False)
        self._bar.update(step - self._bar.n)
        if self._bar.disable and self._tells:
            logging.info("step %d %s", step, " ".join(f"{k}={v}" for k, v in shown.items()))

    def close(self) -> None:
        """Ends the bar, and TensorBoard's file."""
        self._bar.close()
        if self._board:
            self._board.close()


def require_tensorboard() -> None:
    """Raises UserError if the writer of TensorBoard's files is not installed."""
    if importlib.util.find_spec("tensorboardX") is None:
        raise UserError('tensorboard=True needs tensorboardX: pip install "cogvideo_jax[tensorboard]"')


def _open_board(folder: Path, first_step: int) -> Any:
    from tensorboardX import SummaryWriter

    return SummaryWriter(str(folder), purge_step=first_step + 1)
