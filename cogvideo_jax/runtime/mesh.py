"""Mesh axes and the rules that send a parameter's logical axes to them.

`data` copies parameters and splits batches, `fsdp` splits both, `tensor` splits heads, MLP and vocabulary.
"""

from collections.abc import Mapping

import flax.linen as nn
import jax
from jax.sharding import AxisType, NamedSharding, PartitionSpec

from cogvideo_jax.notation import PyTree

AXES = ("data", "fsdp", "tensor")
BATCH = PartitionSpec(("data", "fsdp"))
RULES = (
    ("layers", None),
    ("vocab", "tensor"),
    ("embed", "fsdp"),
    ("heads", "tensor"),
    ("kv", None),
    ("mlp", "tensor"),
)


def make_mesh(shape: Mapping[str, int]) -> jax.sharding.Mesh:
    """A mesh over all devices; one axis may be -1 and takes what is left.

    Raises:
      ValueError: if the axes do not multiply to the number of devices.
    """
    if set(shape) != set(AXES):
        raise ValueError(f"mesh needs exactly the axes {AXES}, got {tuple(shape)}")
    sizes = [shape[axis] for axis in AXES]
    devices = jax.device_count()
    if sizes.count(-1) == 1:
        known = 1
        for size in sizes:
            known *= max(size, 1)
        sizes[sizes.index(-1)] = devices // known
    total = sizes[0] * sizes[1] * sizes[2]
    if min(sizes) < 1 or total != devices:
        raise ValueError(f"mesh {dict(shape)} does not fit {devices} devices")
    return jax.make_mesh(tuple(sizes), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def shardings(boxed: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    """NamedSharding of every parameter of an abstract tree that still carries its logical axes."""
    specs = nn.get_partition_spec(boxed)
    return nn.logical_to_mesh_sharding(specs, mesh, RULES)


def replicated(mesh: jax.sharding.Mesh) -> NamedSharding:
    """The same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: jax.sharding.Mesh) -> NamedSharding:
    """Split over `data` and `fsdp`."""
    return NamedSharding(mesh, BATCH)


def put_batch(batch: PyTree, mesh: jax.sharding.Mesh) -> PyTree:
    """Host arrays of this process -> global arrays split over `data` and `fsdp`."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)
