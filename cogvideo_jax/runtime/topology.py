"""TPU topologies to compile for without a TPU, and published figures of their chips."""

import os
from collections.abc import Sequence
from typing import NamedTuple

import jax

from cogvideo_jax.errors import UserError

GB = 1e9


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
