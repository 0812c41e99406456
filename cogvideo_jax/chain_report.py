"""What generation will do on TPUs that are not there: the real programs, compiled for their topology on this machine.

Bytes and collectives are the compiler's; times are predictions from published figures of the chips, as if everything
ran at its limit.
"""

import time
from collections.abc import Sequence
from typing import NamedTuple

from cogvideo_jax.chain import shrunk
from cogvideo_jax.errors import UserError
from cogvideo_jax.interface import Request, Sampler, Step
from cogvideo_jax.runtime.memory import gib, measured_peak
from cogvideo_jax.runtime.topology import Chip, Examined, examine


class StepReport(NamedTuple):
    """One step on one topology.

    Attributes:
      step: of the chain.
      programs: what the compiler says of each, and its calls.
      resident: bytes of weights that stay on a device, beside those that the programs take.
      flops: operations of a device in all calls.
      read: bytes that a device reads and writes in its memory in all calls.
    """

    step: Step
    programs: list[tuple[Examined, int]]
    resident: int
    flops: float
    read: float

    @property
    def needed(self) -> int:
        """Bytes a device."""
        return self.resident + max(one.needed for one, _ in self.programs)

    @property
    def sent(self) -> int:
        """Bytes that a device sends in all calls."""
        return sum(calls * one.sent for one, calls in self.programs)

    def seconds(self, chip: Chip) -> tuple[float, float]:
        """Least: memory and network hide behind the arithmetic. Most: the network does not."""
        work, network = max(self.flops / chip.flops, self.read / chip.bandwidth), self.sent / chip.network
        return max(work, network), work + network


class ChainReport(NamedTuple):
    """A chain on one topology.

    Attributes:
      devices: their number.
      compile_seconds, host_peak: what it took to find out.
    """

    steps: list[StepReport]
    chip: Chip
    devices: int
    compile_seconds: float
    host_peak: int

    @property
    def fits(self) -> bool:
        return all(one.needed <= self.chip.memory for one in self.steps)

    @property
    def seconds(self) -> tuple[float, float]:
        """Of all steps, least and most."""
        least, most = zip(*(one.seconds(self.chip) for one in self.steps))
        return sum(least), sum(most)


def estimate_chain(sampler: Sampler, request: Request, *, chip: Chip, devices: int) -> ChainReport:
    """Compiles a request's chain for the current mesh, whose devices need not be here.

    Raises:
      UserError: the weights are of a family that makes arrays before its programs are lowered.
    """
    if not sampler.lowers_anywhere:
        raise UserError("weights of this family cannot be planned for TPUs that are not here; leave --topology out")
    begun = time.monotonic()

    def look(steps: Sequence[Step]) -> list[StepReport]:
        return [_examined(step, devices) for step in steps]

    found = shrunk(sampler, request, look, lambda found: (one.needed <= chip.memory for one in found))
    return ChainReport(found, chip, devices, time.monotonic() - begun, measured_peak())


def _examined(step: Step, devices: int) -> StepReport:
    programs = [(examine(lowered), calls) for lowered, calls in step.programs()]
    memory = step.memory()
    counted = sum(calls * one.flops for one, calls in programs)  # attention kernels count nothing
    read = sum(calls * max(one.accessed, memory.own) for one, calls in programs)
    return StepReport(step, programs, memory.resident - memory.own, max(counted, (step.flops or 0) / devices), read)


def describe(report: ChainReport) -> str:
    """As text, for people."""
    took = f"compiled in {report.compile_seconds:.0f} s with {gib(report.host_peak)} of host memory"
    lines = [took, f"{'GiB a device':16}{'calls':>7}{'needed':>9}{'sent':>9}   seconds, and what bounds them"]
    for one in report.steps:
        calls, (least, most) = sum(calls for _, calls in one.programs), one.seconds(report.chip)
        sides = dict(arithmetic=one.flops / report.chip.flops, memory=one.read / report.chip.bandwidth)
        bound = ", ".join(f"{name} {seconds:.2f}" for name, seconds in sides.items())
        network = one.sent / report.chip.network
        numbers = f"{calls:7}{one.needed / 2**30:9.2f}{one.sent / 2**30:9.2f}"
        lines.append(f"{one.step.name:16}{numbers}   {least:.2f} to {most:.2f}: {bound}, network {network:.2f}")
    for one in report.steps:
        if one.needed > report.chip.memory:
            lacks = gib(one.needed - int(report.chip.memory))
            lines.append(f"does not fit: {one.step.name} needs {lacks} more than a device has; {one.step.advice}")
    if report.fits:
        least, most = report.seconds
        lines.append(f"prediction, all at the limit of the chips: {least:.1f} to {most:.1f} s, weights loaded")
    collectives = sorted({kind for one in report.steps for found, _ in one.programs for kind in found.collectives})
    lines += [_sent(report, kind) for kind in collectives]
    return "\n".join(lines)


def _sent(report: ChainReport, kind: str) -> str:
    found = [(one.collectives.get(kind), calls) for step in report.steps for one, calls in step.programs]
    count = sum(calls * traffic.count for traffic, calls in found if traffic)
    total = sum(calls * traffic.bytes for traffic, calls in found if traffic)
    return f"  {kind:20}{count:8} in all, a device sends {gib(total)}"
