"""Whether a workdir is as training left it."""

import json
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path

import numpy as np
import tensorstore

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.checkpoint import read_note
from cogvideo_jax.runtime.checksums import checksum
from cogvideo_jax.runtime.files import read_bytes, reason
from cogvideo_jax.runtime.jsonl import read_lines
from cogvideo_jax.runtime.schemas import STRICT, dataclass_schema, read_json, shown
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
    """Reads the arrays of a checkpoint one by one, whatever devices it was saved on."""
    try:
        note, checksums, shapes = read_note(json.loads(read_bytes(folder / "data" / "metadata"))), {}, {}
        for name, array in _arrays(folder / "state"):
            checksums[name], shapes[name] = int(checksum(array)), list(array.shape)
        note.require(checksums)
        if dict(_described_shapes(folder / "state")) != shapes:
            raise UserError("the descriptions of its arrays do not fit the arrays")
    except Exception as error:  # these libraries raise many kinds for a damaged file
        said = f"{type(error).__name__}: {reason(error)}"
        raise UserError(f"checkpoint {folder} cannot be read: {said[:200]}") from error


def _arrays(state: Path) -> Iterator[tuple[str, np.ndarray]]:
    tree = json.loads(read_bytes(state / "_METADATA"))["tree_metadata"].values()
    store = {"driver": "ocdbt", "base": {"driver": "file", "path": f"{state.resolve()}/"}}
    for leaf in tree:
        if not leaf["value_metadata"]["skip_deserialize"]:  # a dict without keys, or None
            name = ".".join(part["key"] for part in leaf["key_metadata"])
            array = tensorstore.open({"driver": "zarr", "kvstore": store | {"path": f"{name}/"}}).result()
            yield name, array.read().result()


def _described_shapes(state: Path) -> Iterator[tuple[str, list[int]]]:
    """Names and shapes of all arrays, as each process described those that it wrote."""
    for path in (state / "array_metadatas").iterdir():
        for array in json.loads(read_bytes(path))["array_metadatas"]:
            yield array["array_metadata"]["param_name"], array["array_metadata"]["write_shape"]
