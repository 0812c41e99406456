"""Mesh axes, and the rules that map logical axes of parameters and activations to them.

`data` copies parameters and splits batches, `fsdp` splits both, `tensor` splits heads, MLP and codes, `sequence` splits
the tokens of one clip, and the heads while they attend to each other. Devices of several slices, joined by a slower
network, are arranged so that only `data` crosses slices.
"""

import math
from collections.abc import Mapping, Sequence

import flax.linen as nn
import jax
import numpy as np
from jax.experimental import mesh_utils, multihost_utils
from jax.sharding import AxisType, Mesh, NamedSharding, PartitionSpec

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Array, Int, PyTree

AXES = ("data", "fsdp", "tensor", "sequence")
OPTIONAL = {"sequence": 1}  # axes that need not be named
BATCH = PartitionSpec(("data", "fsdp"))
RULES = (
    # parameters
    ("layers", None),
    ("vocab", None),  # the release has 150,010 rows, which four devices cannot share
    ("embed", "fsdp"),
    ("channels", "fsdp"),
    ("codebook", "fsdp"),
    # parameters and activations
    ("heads", "tensor"),
    ("kv", None),
    ("mlp", "tensor"),
    # activations
    ("batch", ("data", "fsdp")),
    ("rows", ("data", "fsdp", "tensor")),  # clips, then heads
    ("length", "sequence"),
    ("width", None),
    ("attended_heads", ("tensor", "sequence")),  # of queries that see the whole sequence
    ("pixel_rows", ("tensor", "sequence")),
    ("codes", "tensor"),
)


def make_mesh(shape: Mapping[str, int], devices: Sequence[jax.Device] | None = None) -> Mesh:
    """Mesh over all devices; one axis may be -1 and takes the remaining factor.

    Args:
      shape: size of each of AXES; those in OPTIONAL may be left out.
      devices: by default those of this run; may be those of a topology to compile for.

    Raises:
      UserError: the sizes do not multiply to the number of devices, or `data` is not a multiple of the slices.
    """
    shape = OPTIONAL | dict(shape)
    if set(shape) != set(AXES):
        raise UserError(f"mesh needs exactly the axes {AXES}, got {tuple(shape)}")
    devices = jax.devices() if devices is None else list(devices)
    sizes = [shape[axis] for axis in AXES]
    if sizes.count(-1) == 1:
        known = math.prod(max(size, 1) for size in sizes)
        sizes[sizes.index(-1)] = len(devices) // known
    if min(sizes) < 1 or math.prod(sizes) != len(devices):
        raise UserError(f"mesh {dict(shape)} does not fit {len(devices)} devices")
    return Mesh(_grid(sizes, devices), AXES, axis_types=(AxisType.Auto,) * len(AXES))


def _grid(sizes: list[int], devices: list[jax.Device]):
    """Devices by mesh position, so that neighbours in the machine are neighbours in the mesh."""
    slices = len({getattr(device, "slice_index", 0) for device in devices})
    if slices == 1:
        return mesh_utils.create_device_mesh(sizes, devices, allow_split_physical_axes=True)
    if sizes[0] % slices:
        raise UserError(f"mesh axis data={sizes[0]} is not a multiple of the {slices} slices; only it may cross them")
    within, across = [sizes[0] // slices, *sizes[1:]], [slices, *[1] * (len(AXES) - 1)]
    return mesh_utils.create_hybrid_device_mesh(within, across, devices, allow_split_physical_axes=True)


def shardings(boxed: PyTree, mesh: Mesh) -> PyTree:
    """NamedSharding of every parameter of an abstract tree boxed with its logical axes.

    Raises:
      UserError: the mesh does not divide a size.
    """
    specs = nn.get_partition_spec(boxed)
    found = nn.logical_to_mesh_sharding(specs, mesh, RULES)
    jax.tree_util.tree_map_with_path(_check_divides, nn.meta.unbox(boxed), found)
    return found


def _check_divides(path, leaf: jax.ShapeDtypeStruct, sharding: NamedSharding) -> None:
    for size, axes in zip(leaf.shape, sharding.spec):
        parts = math.prod(sharding.mesh.shape[axis] for axis in ([axes] if isinstance(axes, str) else axes or ()))
        if size % parts:
            name = jax.tree_util.keystr(path, simple=True, separator="/")
            raise UserError(f"mesh axis {axes}={parts} does not divide the {size} of {name} {list(leaf.shape)}")


def constrain(x: Array, *axes: str | None) -> Array:
    """Constrains an activation's sharding to the rules for its logical axes; unchanged if no mesh is set."""
    return nn.with_logical_constraint(x, axes, rules=RULES)


def parts_of(axis: str) -> int:
    """Number of parts into which the current mesh splits a logical axis; 1 without a mesh."""
    shape, axes = jax.sharding.get_abstract_mesh().shape, dict(RULES)[axis] or ()
    return math.prod(shape.get(name, 1) for name in ([axes] if isinstance(axes, str) else axes))


def platform() -> str:
    """Platform of the devices that programs are made for: "cpu", "gpu" or "tpu"; those of the current mesh need not be
    here."""
    mesh = jax.sharding.get_mesh()
    return jax.default_backend() if mesh.empty else mesh.devices.flat[0].platform


def batch_parts(batch: int) -> int:
    """Number of parts into which the current mesh splits the rows of a batch; 1 without a mesh.

    Raises:
      UserError: the rows cannot be shared equally.
    """
    parts = parts_of("batch")
    if batch % parts:
        raise UserError(f"a batch of {batch} cannot be shared by {parts} parts of the mesh; use a multiple")
    return parts


def round_up(rows: int) -> int:
    """Rounds a number of rows up to one that the current mesh can share equally."""
    parts = batch_parts(0)
    return -(-rows // parts) * parts


def named(mesh: Mesh, *axes: str | None) -> NamedSharding:
    """Sharding of an array with these logical axes."""
    return NamedSharding(mesh, nn.logical_to_mesh_axes(axes, RULES))


def replicated(mesh: Mesh) -> NamedSharding:
    """Sharding of an array that is the same on every device."""
    return NamedSharding(mesh, PartitionSpec())


def batch_sharding(mesh: Mesh) -> NamedSharding:
    """Sharding of a batch over `data` and `fsdp`."""
    return NamedSharding(mesh, BATCH)


def put_batch(batch: PyTree, mesh: Mesh) -> PyTree:
    """Makes global arrays, split over `data` and `fsdp`, from this process's host arrays."""
    sharding = batch_sharding(mesh)
    return jax.tree.map(lambda x: jax.make_array_from_process_local_data(sharding, x), batch)


def to_host(tree: PyTree) -> PyTree:
    """Gathers whole arrays in the memory of every process; all processes must call it."""
    if jax.process_count() == 1:
        return jax.device_get(tree)
    return multihost_utils.process_allgather(tree, tiled=True)


def batch_rows(mesh: Mesh, batch_size: int) -> Int[np.ndarray, "b"]:
    """Rows of a global batch that this process reads, in the order of `put_batch`.

    Processes that differ only along `tensor` read the same rows; a topology may scatter a process's rows.

    Raises:
      UserError: `data` times `fsdp` does not divide the batch.
    """
    parts = mesh.shape["data"] * mesh.shape["fsdp"]
    if batch_size < 1 or batch_size % parts:
        raise UserError(f"batch_size {batch_size} cannot be shared by data x fsdp = {parts} parts of the mesh")
    held = batch_sharding(mesh).addressable_devices_indices_map((batch_size,)).values()
    return np.unique(np.concatenate([np.arange(batch_size)[rows] for (rows,) in held]))
