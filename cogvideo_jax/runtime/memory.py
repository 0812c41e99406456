"""Memory that compiled programs need and the machine has free, and whether they fit."""

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
CGROUP = Path("/sys/fs/cgroup")  # limits of a container, cgroup version 2


class Phase(NamedTuple):
    """Peak memory of one part of the work, in bytes.

    Attributes:
      name: the part, in a word or two.
      weights: parameters and optimizer state, on each device.
      working: caches, activations and results, on each device.
      host: host memory, without arrays of devices that share it.
      advice: how to reduce it.
    """

    name: str
    weights: int
    working: int
    host: int = 0
    advice: str = ""


class Room(NamedTuple):
    """Free memory, in bytes.

    Attributes:
      host: free for this process, in addition to its current memory.
      device: free on the fullest device; None if devices share the host's memory.
      devices: number of devices of this process.
    """

    host: int
    device: int | None
    devices: int


def room() -> Room:
    """Free memory of this machine."""
    devices = jax.local_devices()
    free = None
    if devices[0].platform != "cpu":
        stats = [device.memory_stats() or {} for device in devices]
        free = min((s["bytes_limit"] - s["bytes_in_use"] for s in stats if "bytes_limit" in s), default=None)
    return Room(min(psutil.virtual_memory().available, _left_in_container()), free, len(devices))


def require(phases: Sequence[Phase], has: Room | None = None) -> int:
    """Returns the planned peak. Raises UserError if a phase does not fit."""
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
    """True if a phase fits into the free memory."""
    needed, there, _ = _tightest(phase, has or room())
    return needed <= there


def table(phases: Sequence[Phase], has: Room | None = None) -> str:
    """Table of the phases, and the free memory."""
    has = has or room()
    lines = [f"{'MiB':24}{'weights':>10}{'working':>10}{'host':>10}   fits"]
    for phase in phases:
        needed, there, _ = _tightest(phase, has)
        numbers = "".join(f"{x / 2**20:10.1f}" for x in (phase.weights, phase.working, phase.host))
        lines.append(f"{phase.name:24}{numbers}   {'yes' if needed <= there else 'no; ' + phase.advice}")
    where = "on the host" if has.device is None else "on each device"
    free, peak = has.host if has.device is None else has.device, planned_peak(phases, has)
    lines.append(f"peak memory {where}: {gib(peak)}, this process's current memory included; {gib(free)} is free")
    return "\n".join(lines)


def planned_peak(phases: Sequence[Phase], has: Room | None = None) -> int:
    """Peak memory in bytes of a device, or of this process if devices share the host's memory."""
    has = has or room()
    if has.device is not None:
        return max(phase.weights + phase.working for phase in phases)
    taken = max(has.devices * (phase.weights + phase.working) + phase.host for phase in phases)
    return max(measured_peak(), psutil.Process().memory_info().rss + taken)


def measured_peak() -> int:
    """Peak memory so far, as predicted by `planned_peak`."""
    devices = jax.local_devices()
    if devices[0].platform != "cpu":
        return max((device.memory_stats() or {}).get("peak_bytes_in_use", 0) for device in devices)
    unit = 1 if sys.platform == "darwin" else 1024
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * unit


def tell_peak(planned: int) -> None:
    """Logs the measured and the planned peak."""
    logging.info("peak memory: %s measured, %s planned", gib(measured_peak()), gib(planned))


def working_bytes(compiled: jax.stages.Compiled, weights: int) -> int:
    """Bytes on a device while a program runs, without the `weights` among its arguments."""
    sizes = compiled.memory_analysis()
    outputs = sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    return sizes.argument_size_in_bytes + outputs + sizes.temp_size_in_bytes - weights


def compile_all(lowered: Iterable[jax.stages.Lowered]) -> list[jax.stages.Compiled]:
    """Compiles programs in parallel, each as soon as it is lowered; later calls of the functions reuse them."""
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda program: program.compile(), lowered))


def tree_bytes(tree: PyTree) -> int:
    """Bytes of all leaves on one device; sharded leaves count their share."""
    return sum(_leaf_bytes(leaf) for leaf in jax.tree.leaves(tree))


def _leaf_bytes(leaf: jax.ShapeDtypeStruct) -> int:
    shape = leaf.shape if leaf.sharding is None else leaf.sharding.shard_shape(leaf.shape)
    return math.prod(shape) * leaf.dtype.itemsize


def _tightest(phase: Phase, has: Room) -> tuple[int, int, str]:
    """Bytes needed, bytes free, and the name, of the scarcer memory."""
    on_device = phase.weights + phase.working
    if has.device is None:
        return has.devices * on_device + phase.host, has.host, "host"
    places = [(on_device, has.device, "device"), (phase.host, has.host, "host")]
    return max(places, key=lambda place: place[0] - place[1])


def _left_in_container() -> int:
    """Bytes left under a container's limit; file pages that can be dropped count as free."""
    try:
        limit, used = ((CGROUP / name).read_text().strip() for name in ("memory.max", "memory.current"))
        stat = dict(line.split() for line in (CGROUP / "memory.stat").read_text().splitlines())
        return int(limit) - int(used) + int(stat["inactive_file"])
    except (OSError, ValueError, KeyError):  # no container, "max", or another system
        return 2**62


def gib(number: int) -> str:
    """Bytes as text in GiB."""
    return f"{number / GIB:.3g} GiB"
