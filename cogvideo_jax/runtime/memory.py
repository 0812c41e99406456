"""What a compiled program takes, what the machine has, and whether the one fits into the other."""

import math
import resource
import sys
from collections.abc import Iterable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import NamedTuple

import jax
import psutil
from absl import logging

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import PyTree

GIB = 2**30
CGROUP = Path("/sys/fs/cgroup")  # of a container, version 2


class Phase(NamedTuple):
    """What is in memory at the fullest moment of one part of the work, in bytes.

    Attributes:
      name: what is done.
      weights: parameters and optimizer state, on each device.
      working: on each device beside them: caches, activations, results.
      host: in host memory beside what is on the devices.
      advice: what makes it smaller.
    """

    name: str
    weights: int
    working: int
    host: int = 0
    advice: str = ""


class Room(NamedTuple):
    """What is free, in bytes.

    Attributes:
      host: for this process beside what it holds.
      device: on the fullest device; None where devices share the host's memory.
      devices: how many this process has.
    """

    host: int
    device: int | None
    devices: int


def room() -> Room:
    """What this machine has left."""
    devices = jax.local_devices()
    free = None
    if devices[0].platform != "cpu":
        stats = [device.memory_stats() or {} for device in devices]
        free = min((s["bytes_limit"] - s["bytes_in_use"] for s in stats if "bytes_limit" in s), default=None)
    return Room(min(psutil.virtual_memory().available, _left_in_container()), free, len(devices))


def require(phases: Sequence[Phase], has: Room | None = None) -> int:
    """The planned peak. Raises UserError, in one sentence, if a phase does not fit."""
    has = has or room()
    for phase in phases:
        needed, there, where = _tightest(phase, has)
        if needed > there:
            advice = f"; {phase.advice}" if phase.advice else ""
            raise UserError(
                f"{phase.name} needs {gib(needed)} of {where} memory ({gib(phase.weights)} of weights, "
                f"{gib(phase.working)} of caches and activations a device), but {gib(there)} is free{advice}"
            )
    return planned_peak(phases, has)


def fits(phase: Phase, has: Room | None = None) -> bool:
    """Whether there is room for a phase."""
    needed, there, _ = _tightest(phase, has or room())
    return needed <= there


def table(phases: Sequence[Phase], has: Room | None = None) -> str:
    """The phases as text, and what is free."""
    has = has or room()
    lines = [f"{'MiB':24}{'weights':>10}{'working':>10}{'host':>10}   fits"]
    for phase in phases:
        needed, there, _ = _tightest(phase, has)
        numbers = "".join(f"{x / 2**20:10.1f}" for x in (phase.weights, phase.working, phase.host))
        lines.append(f"{phase.name:24}{numbers}   {'yes' if needed <= there else 'no; ' + phase.advice}")
    where = "of the host" if has.device is None else "a device"
    free, peak = has.host if has.device is None else has.device, planned_peak(phases, has)
    lines.append(f"at most {gib(peak)} {where} in use, with what this process holds; {gib(free)} {where} free")
    return "\n".join(lines)


def planned_peak(phases: Sequence[Phase], has: Room | None = None) -> int:
    """Bytes in use at the fullest moment: of a device, or of this process where devices share the host's memory."""
    has = has or room()
    if has.device is not None:
        return max(phase.weights + phase.working for phase in phases)
    taken = max(has.devices * (phase.weights + phase.working) + phase.host for phase in phases)
    return max(measured_peak(), psutil.Process().memory_info().rss + taken)


def measured_peak() -> int:
    """What `planned_peak` predicts, as it has been so far."""
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        return max((device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in devices)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def tell_peak(planned: int) -> None:
    """Logs what was report and what came."""
    logging.info("memory in use: at most %s, %s were planned", gib(measured_peak()), gib(planned))


def working_bytes(compiled: jax.stages.Compiled, weights: int) -> int:
    """Bytes on a device while a program runs, beside the `weights` among its arguments."""
    sizes = compiled.memory_analysis()
    outputs = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return sizes.argument_size_in_bytes + outputs + sizes.temp_size_in_bytes - weights


def compile_all(lowered: Iterable[jax.stages.Lowered]) -> list[jax.stages.Compiled]:
    """Compiles side by side, each as soon as it comes; a later call of the same functions finds the programs ready."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda program: program.compile(), lowered))


def tree_bytes(tree: PyTree) -> int:
    """Bytes of all leaves on one device; a leaf with a sharding counts its share."""
    return sum(_leaf_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _leaf_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def _tightest(phase: Phase, has: Room) -> tuple[int, int, str]:
    """Bytes needed, bytes there, and where, of the memory that is fuller."""
    on_device = phase.weights + phase.working
    if has.device is None:
        return has.devices * on_device + phase.host, has.host, "host"
    places = [(on_device, has.device, "device"), (phase.host, has.host, "host")]
    return max(places, key=lambda place: place[0] - place[1])


def _left_in_container() -> int:
    """What the limit of a container leaves; pages of files that can be dropped do not count."""
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return int(limit) - int(used) + int(stat["inactive_file"])
    except (OSError, ValueError, KeyError):  # no container, "max", or another system
        return 2**62


def gib(number: int) -> str:
    """Bytes, for people."""
    return f"{number / GIB:.3g} GiB"
