"""TPU topologies to compile for without a TPU, published figures of their chips, and what the compiler says."""

import os
import re
from collections.abc import Sequence
from typing import NamedTuple

import jax

from cogvideo_jax.errors import UserError
from cogvideo_jax.runtime.collectives import Traffic, traffic

GB = 1e9
_EXCEEDED = re.compile(r"[Uu]sed ([\d.]+[KMGT]?) of ([\d.]+[KMGT]?) hbm")
_UNITS = {"K": 2**10, "M": 2**20, "G": 2**30, "T": 2**40}


class Chip(NamedTuple):
    """Published figures of a chip (cloud.google.com/tpu/docs, one page per generation; NVIDIA's H100 data sheet).

    Attributes:
      flops: bfloat16 operations a second.
      memory: bytes.
      bandwidth: bytes a second to and from it.
      network: bytes a second that all links to other chips send.
    """

    flops: float
    memory: float
    bandwidth: float
    network: float


CHIPS = {
    "v4": Chip(275e12, 32 * 2**30, 1228 * GB, 2400e9 / 8),
    "v5e": Chip(197e12, 16 * 2**30, 819 * GB, 1600e9 / 8),
    "v5p": Chip(459e12, 95 * 2**30, 2765 * GB, 4800e9 / 8),
    "v6e": Chip(918e12, 32 * 2**30, 1640 * GB, 3584e9 / 8),
}


def open_topology(name: str) -> tuple[Sequence[jax.Device], Chip]:
    """Devices to compile for, and their chip. Needs libtpu (the extra `[tpu]`) but no TPU.

    Args:
      name: generation and chips, "v5e:16x16"; several slices are "2*v5e:16x16".

    Raises:
      UserError: unknown topology, or libtpu is missing.
    """
    slices, _, one = name.rpartition("*")
    generation, _, shape = one.partition(":")
    if generation not in CHIPS or not shape or not (slices or "1").isdigit():
        raise UserError(f"topology {name!r} should look like v5e:16x16 or 2*v5e:16x16; chips are {', '.join(CHIPS)}")
    os.environ.setdefault("TPU_SKIP_MDS_QUERY", "1")  # there is no metadata server
    os.environ.setdefault("ALLOW_MULTIPLE_LIBTPU_LOAD", "true")  # harmless, because nothing runs
    options = {"chip_config_name": "megacore"} if generation == "v4" else {}
    if slices:
        options["num_slices"] = int(slices)
    from jax.experimental import topologies

    try:
        found = topologies.get_topology_desc(platform="tpu", topology_name=one, **options)
    except Exception as error:  # many types: a name that libtpu does not know, or no libtpu
        reason = str(error).splitlines()[0][:200]
        raise UserError(f"{name} cannot be compiled for; libtpu comes with the extra [tpu] ({reason})") from error
    return found.devices, CHIPS[generation]


class Examined(NamedTuple):
    """What the compiler says of a program, for one device.

    Attributes:
      arguments, temporaries: bytes; None where it only said what all needs, because that is not there.
      needed: bytes.
      collectives: what the device sends; empty where it does not fit.
      flops: operations, loops once and without those of kernels that the compiler does not look into, such as splash.
      accessed: bytes read and written in the device's memory, loops once.
    """

    arguments: int | None
    temporaries: int | None
    needed: int
    collectives: dict[str, Traffic]
    flops: float = 0.0
    accessed: float = 0.0

    @property
    def sent(self) -> int:
        """Bytes that the device sends."""
        return sum(one.bytes for one in self.collectives.values())


def examine(lowered: jax.stages.Lowered) -> Examined:
    """Compiles a program for the devices that it was lowered for."""
    try:
        compiled = lowered.compile()
    except jax.errors.JaxRuntimeError as error:
        needed = needed_bytes(str(error))
        if needed is None:
            raise
        return Examined(None, None, needed, {})
    sizes, cost = compiled.memory_analysis(), compiled.cost_analysis() or {}
    arguments, temporaries = sizes.argument_size_in_bytes, sizes.temp_size_in_bytes
    needed = arguments + temporaries + sizes.output_size_in_bytes - sizes.alias_size_in_bytes
    sent = traffic(compiled.as_text())
    return Examined(arguments, temporaries, needed, sent, cost.get("flops", 0.0), cost.get("bytes accessed", 0.0))


def needed_bytes(message: str) -> int | None:
    """Bytes that the compiler found it would need, of its message that they are not there; None for another message."""
    found = _EXCEEDED.search(message)
    if found is None:
        return None
    number, unit = re.fullmatch(r"([\d.]+)([KMGT]?)", found[1]).groups()  # type: ignore[union-attr]
    return int(float(number) * _UNITS.get(unit, 1))
