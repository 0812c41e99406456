"""Checkpoints by orbax: the training state and the data iterator's state, written in the background."""

from pathlib import Path

import jax
import orbax.checkpoint as ocp

from cogvideo_jax.notation import PyTree


class Checkpoints:
    """The newest `keep` checkpoints of a run below `workdir/checkpoints`."""

    def __init__(self, workdir: Path, *, keep: int):
        options = ocp.CheckpointManagerOptions(max_to_keep=keep, enable_async_checkpointing=True)
        self._manager = ocp.CheckpointManager((workdir / "checkpoints").resolve(), options=options)

    def latest(self) -> int | None:
        """Newest complete step, None in a fresh run."""
        return self._manager.latest_step()

    def save(self, step: int, state: PyTree, data: dict) -> None:
        """Starts to save; a step that is already there is left alone."""
        if step in self._manager.all_steps():
            return
        items = ocp.args.Composite(state=ocp.args.StandardSave(state), data=ocp.args.JsonSave(data))
        self._manager.save(step, args=items)

    def restore(self, step: int, like: PyTree) -> tuple[PyTree, dict]:
        """State in the shapes, types and shardings of `like` (arrays or ShapeDtypeStructs), and the data state."""
        abstract = jax.tree.map(ocp.utils.to_shape_dtype_struct, like)
        items = ocp.args.Composite(state=ocp.args.StandardRestore(abstract), data=ocp.args.JsonRestore())
        found = self._manager.restore(step, args=items)
        return found.state, found.data

    def close(self) -> None:
        """Waits until everything is on disk."""
        self._manager.wait_until_finished()
        self._manager.close()
