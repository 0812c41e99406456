"""Whether a workdir is as training left it."""

from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import jax
import numpy as np
import orbax.checkpoint as ocp

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.files import read_bytes, reason
from cogvideo_jax.runtime.jsonl import read_lines
from cogvideo_jax.runtime.schemas import STRICT, dataclass_schema, parse_json, read_json, shown
from cogvideo_jax.runtime.weights import require_whole
from cogvideo_jax.training import run_config
from cogvideo_jax.training.metrics import Line
from cogvideo_jax.training.task import TaskType


@dataclass_schema(STRICT | {"extra": "ignore"})
class _Named:
    """What every config.json says; the schema of its task checks the rest."""

    family: str
    part: str


def damages(workdir: Path, tasks_of: Callable[[str], Mapping[str, TaskType]]) -> Iterator[str]:
    """A sentence for every file and checkpoint that is damaged; reads all of them.

    Args:
      tasks_of: family -> its tasks.
    """
    steps = sorted(int(path.name) for path in (workdir / "checkpoints").glob("*") if path.name.isdecimal())
    checks: list[Callable[[], object]] = [lambda: _check_config(workdir / run_config.FILE, tasks_of)]
    checks += [lambda: read_lines(workdir / "metrics.jsonl", Line)]
    checks += [lambda step=step: _check_checkpoint(workdir / "checkpoints" / f"{step}") for step in steps]
    weights = workdir / "weights.safetensors"
    checks += [lambda: require_whole(weights)] if weights.exists() else []
    for check in checks:
        try:
            check()
        except UserError as error:
            yield str(error)


def _check_config(path: Path, tasks_of: Callable[[str], Mapping[str, TaskType]]) -> None:
    named = read_json(path, _Named)
    tasks = tasks_of(named.family)
    if named.part not in tasks:
        raise UserError(f"{path}: part is {shown(named.part)}; it should be one of {', '.join(tasks)}")
    read_json(path, tasks[named.part].schema)


def _check_checkpoint(folder: Path) -> None:
    """Reads all arrays of a checkpoint, on whatever devices it was saved."""
    try:
        with ocp.PyTreeCheckpointer() as reader:
            leaves = reader.metadata(folder / "state").item_metadata.tree
            as_numpy = jax.tree.map(lambda _: ocp.RestoreArgs(restore_type=np.ndarray), leaves)
            reader.restore(folder / "state", restore_args=as_numpy)
    except Exception as error:  # orbax raises many kinds for a damaged file
        raise UserError(f"checkpoint {folder} cannot be read: {reason(error)[:200]}") from error
    place = folder / "data" / "metadata"
    parse_json(read_bytes(place), dict, where=str(place))
