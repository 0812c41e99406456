"""Orbax checkpoints of the training state and of the data iterator, written in the background.

A checkpoint gets its name when it is complete, so a kill leaves no half-written one. One that was damaged later is set
aside, as WORKDIR/damaged_checkpoints/STEP, in favour of the one before, so that training goes on and saves again. The
checksums of all arrays are saved beside the place in the data, because orbax does not notice a changed byte.
"""

import contextlib
import dataclasses
import itertools
import json
import re
import shutil
from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Annotated

import jax
import orbax.checkpoint as ocp
from absl import logging
from jax.experimental import multihost_utils
from pydantic import Field

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import PyTree
from cogvideo_jax.runtime.checksums import json_digest, tree_checksums
from cogvideo_jax.runtime.files import reason, require_space, write_text
from cogvideo_jax.runtime.processes import is_first
from cogvideo_jax.runtime.schemas import STRICT, NotNegative, check, dataclass_schema, read_json

OF_TENSORSTORE = re.compile("[A-Z_]+: ")  # begins the errors of the library that orbax writes with
SPARE = 1 << 20  # bytes of descriptions, and of the last block of each file
Steps = Annotated[list[NotNegative], Field(max_length=10_000)]


@dataclass_schema(STRICT)
class Note:
    """What a checkpoint holds beside the state.

    Attributes:
      place: state of the data iterator.
      digest: of `place`.
      checksums: of all arrays of the state by name; empty in checkpoints of 0.1.0, which have no digest either.
    """

    place: dict
    digest: str
    checksums: dict[str, NotNegative]

    def require(self, checksums: Mapping[str, int]) -> None:
        """Raises UserError if an array is not what was saved."""
        for name, value in self.checksums.items():
            if checksums.get(name) != value:
                raise UserError(f"{name} has changed since it was saved")


def read_note(values: dict) -> Note:
    """The note of a checkpoint. Raises UserError if it is not what was saved."""
    if not values.keys() & {field.name for field in dataclasses.fields(Note)}:
        return Note(values, "", {})
    note = check(values, Note, where="the note of the checkpoint")
    if json_digest(note.place) != note.digest:
        raise UserError("the place in the data has changed since it was saved")
    return note


class Checkpoints:
    """The newest `keep` checkpoints of a run below `workdir/checkpoints`."""

    def __init__(self, workdir: Path, *, keep: int):
        self._folder = (workdir / "checkpoints").resolve()
        self._notes = self._folder / "damaged.json"
        self._set_aside_noted()
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager(self._folder, options=options)

    def save(self, step: int, state: PyTree, data: dict) -> None:
        """Starts saving a step; keeps an existing checkpoint of that step."""
        if step in self._manager.all_steps():
            return
        size = sum(leaf.nbytes for leaf in jax.tree.leaves(state))
        require_space(self._folder, size + SPARE, f"saving step {step}")
        note = dataclasses.asdict(Note(data, json_digest(data), tree_checksums(state)))
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(note))
        with self._disk_errors():
            saved = self._manager.save(step, args=items)
        if not saved:
            raise RuntimeError(
                f"orbax did not save step {step} in {self._folder}, which has {self._manager.all_steps()}"
            )
        logging.info("saving step %d", step)

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
        for step in steps:
            try:
                state, data = self._read(step, like)
            except Exception as error:  # orbax raises many kinds for a damaged file
                failed[step] = error
                logging.warning("checkpoint %d cannot be read: %s", step, _first_line(error))
                if jax.process_count() > 1 and len(steps) > 1:  # the others wait in a barrier; a restart frees them
                    write_text(self._notes, json.dumps([step]), replace=True)
                    raise RuntimeError(f"checkpoint {step} cannot be read; a restart skips it") from error
            else:
                if failed:
                    logging.warning("training continues from the one before, step %d", step)
                    self._set_aside(failed)
                    self._manager.reload()
                return step, state, data
        if not steps:
            return None
        raise UserError(
            f"none of the checkpoints {steps} in {self._folder} can be read ({_first_line(failed[steps[0]])}); if the "
            "config was changed, change it back, or choose another --workdir"
        )

    def reached_preemption(self, step: int) -> bool:
        """True in all processes at the step where all save because one of them was told to end."""
        return self._manager.reached_preemption(step)

    def close(self) -> None:
        """Waits until everything is on disk. Raises UserError if the disk does not take it."""
        with self._disk_errors():
            self._manager.wait_until_finished()
            self._manager.close()

    @contextlib.contextmanager
    def _disk_errors(self) -> Iterator[None]:
        """What orbax raises of a disk, in the background as well, becomes one sentence and leaves nothing."""
        try:
            yield
        except (OSError, ValueError) as error:  # a lost peer or device is a RuntimeError, and ends the process
            if not isinstance(error, OSError) and not OF_TENSORSTORE.match(str(error)):
                raise
            if is_first():
                for unfinished in self._folder.glob("*.orbax-checkpoint-tmp*"):
                    shutil.rmtree(unfinished, ignore_errors=True)
            raise UserError(f"a checkpoint cannot be written to {self._folder}: {reason(error)[:200]}") from error

    def _read(self, step: int, like: PyTree) -> tuple[PyTree, dict]:
        items = ocp.args.Composite(state=ocp.args.StandardRestore(like), data=ocp.args.JsonRestore())
        found = self._manager.restore(step, args=items)
        note = read_note(found.data)
        if note.checksums:
            note.require(tree_checksums(found.state))
        return found.state, note.place

    def _set_aside_noted(self) -> None:
        """Sets aside what one of several processes could not read before all were restarted."""
        if is_first() and self._notes.exists():
            self._set_aside(read_json(self._notes, Steps))
            self._notes.unlink()
        if jax.process_count() > 1:
            multihost_utils.sync_global_devices("damaged checkpoints are set aside")

    def _set_aside(self, steps: Iterable[int]) -> None:
        aside = self._folder.with_name("damaged_checkpoints")
        for step in steps:
            aside.mkdir(exist_ok=True)
            names = itertools.chain([f"{step}"], (f"{step}_{number}" for number in itertools.count(2)))
            free = next(name for name in names if not (aside / name).exists())
            with contextlib.suppress(FileNotFoundError):
                (self._folder / f"{step}").rename(aside / free)


def _first_line(error: Exception) -> str:
    return f"{type(error).__name__}: {error}".splitlines()[0][:200]
