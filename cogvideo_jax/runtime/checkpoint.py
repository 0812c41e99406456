"""Orbax checkpoints of the training state and of the data iterator, written in the background.

A checkpoint gets its name when it is complete, so a kill leaves no half-written one. One that was damaged later is
skipped in favour of the one before, and named in `checkpoints/damaged.json` until a new one takes its place.
"""

import json
from pathlib import Path
from typing import Annotated

import jax
import orbax.checkpoint as ocp
from absl import logging
from pydantic import Field

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime.processes import is_first
from cogvideo_jax.runtime.schemas import NotNegative, read_json

Steps = Annotated[list[NotNegative], Field(max_length=10_000)]


class Checkpoints:
    """The newest `keep` checkpoints of a run below `workdir/checkpoints`."""

    def __init__(self, workdir: Path, *, keep: int):
        self._folder = (workdir / "checkpoints").resolve()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self._folder, options=options)
        self._damaged: set[int] = self._read_damaged()

    def save(self, step: int, state: PyTree, data: dict) -> None:
        """Starts saving a step. Keeps an existing checkpoint of that step unless it is damaged."""
        if step in self._damaged:
            self._manager.delete(step)
            self._note_damaged(self._damaged - {step})
        elif step in self._manager.all_steps():
            return
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
        self._manager.save(step, args=items)

    def restore(self, like: PyTree) -> tuple[int, PyTree, dict] | None:
        """Reads the newest readable checkpoint; None in a fresh run.

        Args:
          like: shapes, types and shardings of the state; the mesh may differ from the one it was saved on.

        Returns:
          The step, the state and the data state.

        Raises:
          UserError: there are checkpoints, but none can be read.
          RuntimeError: this process, one of several, cannot read the newest; all must be restarted.
        """
        steps, failed = sorted(self._manager.all_steps(), reverse=True), {}
        for step in [step for step in steps if step not in self._damaged]:
            try:
                state, data = self._read(step, like)
            except Exception as error:  # orbax raises many kinds for a damaged file
                failed[step] = error
                logging.warning("checkpoint %d cannot be read: %s", step, _first_line(error))
                if jax.process_count() > 1:  # the others wait in a barrier; only a restart brings all together
                    self._note_damaged(self._damaged | failed.keys())
                    raise RuntimeError(f"checkpoint {step} cannot be read; a restart skips it") from error
            else:
                if failed:
                    logging.warning("training continues from the one before, step %d", step)
                    self._note_damaged(self._damaged | failed.keys())
                return step, state, data
        if not steps:
            return None
        self._note_damaged(set())  # skipping all of them would gain nothing
        reason = _first_line(next(iter(failed.values()))) if failed else "all are damaged"
        raise UserError(
            f"none of the checkpoints {steps} in {self._folder} can be read ({reason}); if the config was changed, "
            "change it back, or choose another --workdir"
        )

    def reached_preemption(self, step: int) -> bool:
        """True in all processes at the step where all save because one of them was told to end."""
        return self._manager.reached_preemption(step)

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()

    def _read(self, step: int, like: PyTree) -> tuple[PyTree, dict]:
        items = ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
        found = self._manager.restore(step, args=items)
        return found.state, found.data

    def _read_damaged(self) -> set[int]:
        notes = self._folder / "damaged.json"
        return set(read_json(notes, Steps)) if notes.exists() else set()

    def _note_damaged(self, steps: set[int]) -> None:
        self._damaged = set(steps)
        notes = self._folder / "damaged.json"
        if steps:
            draft = notes.with_name(f"{notes.name}.{jax.process_index()}")
            draft.write_text(json.dumps(sorted(steps)))
            draft.replace(notes)
        elif is_first():
            notes.unlink(missing_ok=True)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
