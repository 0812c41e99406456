"""What a training step will do on a pod that is not there: the real step, compiled for its topology on this machine.

Bytes and collectives are the compiler's; operations are counted from the sizes; times are predictions from published
figures of the chips, as if everything ran at its limit.
"""

import dataclasses
import time
from typing import NamedTuple

import jax

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime import mesh as meshes
from cogvideo_jax.runtime.collectives import Traffic
from cogvideo_jax.runtime.memory import gib, measured_peak, tree_bytes
from cogvideo_jax.runtime.topology import Chip, examine, open_topology
from cogvideo_jax.training.config import TrainConfig
from cogvideo_jax.training.task import Task, TaskType, Work


class CompileReport(NamedTuple):
    """One step on one topology.

    Attributes:
      mesh: axis -> size.
      arguments, temporaries: bytes a device; None where the compiler only said what all needs.
      needed, memory: bytes a device needs, and has.
      collectives: what a device sends; empty where it does not fit.
      flops: of the whole step, useful ones.
      compute, weights, network: seconds, each as if it were alone: operations, reading the matrices, collectives.
      compile_seconds, host_peak: what it took to find out.
    """

    topology: str
    mesh: dict[str, int]
    arguments: int | None
    temporaries: int | None
    needed: int
    memory: int
    collectives: dict[str, Traffic]
    flops: float
    compute: float
    weights: float
    network: float
    peak_flops: float
    compile_seconds: float
    host_peak: int

    @property
    def fits(self) -> bool:
        return self.needed <= self.memory

    @property
    def seconds(self) -> tuple[float, float]:
        """Least: the network hides behind the arithmetic. Most: it does not."""
        work = max(self.compute, self.weights)
        return max(work, self.network), work + self.network

    @property
    def mfu(self) -> tuple[float, float]:
        """Share of the peak of all chips, least and most."""
        least, most = self.seconds
        return self.flops / self.peak_flops / most, self.flops / self.peak_flops / least


def estimate_step(config: TrainConfig, task_type: TaskType, topology: str) -> CompileReport:
    """Compiles a config's step for a topology.

    Raises:
      UserError: a task whose arithmetic is not counted, an unknown topology, or settings that do not fit it.
    """
    if task_type.work is None:
        raise UserError(f"--topology counts arithmetic, and that of {config.part} is not counted: plan it without")
    work = task_type.work(config)
    devices, chip = open_topology(topology)
    mesh = meshes.make_mesh(dataclasses.asdict(config.mesh), devices)
    task = task_type.build(config, mesh)
    start = time.monotonic()
    with jax.set_mesh(mesh):
        found = examine(task.step.lower(*task.abstract))
    peak = len(devices) * chip.flops
    return CompileReport(
        topology=topology,
        mesh=dict(mesh.shape),
        arguments=found.arguments,
        temporaries=found.temporaries,
        needed=found.needed,
        memory=int(chip.memory),
        collectives=found.collectives,
        flops=work.useful,
        compute=work.done / peak,
        weights=_weight_reads(task, work, chip, tensor=mesh.shape["tensor"]),
        network=found.sent / chip.network,
        peak_flops=peak,
        compile_seconds=time.monotonic() - start,
        host_peak=measured_peak(),
    )


def describe(one: CompileReport) -> str:
    """As text, for people."""
    mesh = " x ".join(f"{axis} {size}" for axis, size in one.mesh.items())
    found_out = f"compiled in {one.compile_seconds:.0f} s with {gib(one.host_peak)} of host memory"
    lines = [f"{one.topology}, {mesh}; {found_out}"]
    if not one.fits:
        lacks = f"a device needs {gib(one.needed)} and has {gib(one.memory)}, {gib(one.needed - one.memory)} too little"
        return "\n".join([*lines, f"does not fit: {lacks}", "raise microbatches, lower batch_size, or give fsdp more"])
    lines.append(f"a device: arguments {gib(one.arguments)}, temporaries {gib(one.temporaries)}, of {gib(one.memory)}")
    for kind, found in one.collectives.items():
        lines.append(f"  {kind:20}{found.count:8} a step, a device sends {gib(found.bytes)}")
    (least, most), (low, high) = one.seconds, one.mfu
    alone = f"arithmetic {one.compute:.2f}, reading weights {one.weights:.2f}, network {one.network:.2f}"
    lines += [
        f"{one.flops:.3g} useful operations a step, counted from the sizes",
        f"prediction, all at the limit of the chips: {least:.2f} s a step where the network hides behind arithmetic,",
        f"{most:.2f} s where it does not ({alone}); MFU {low:.0%} to {high:.0%}",
    ]
    return "\n".join(lines)


def _weight_reads(task: Task, work: Work, chip: Chip, *, tensor: int) -> float:
    """Seconds to read this device's share of all matrices, forward, backward and where it is computed again."""
    state, frozen = task.abstract.state, task.abstract.frozen
    parameters = sum(leaf.size for leaf in jax.tree.leaves((task.trained(state), frozen)))
    optimizer = 2 * tree_bytes(state)  # read and written
    return (work.weight_passes * 2 * parameters / tensor + optimizer) / chip.bandwidth
