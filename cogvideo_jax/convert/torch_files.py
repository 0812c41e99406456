"""Files of `torch.save`: read one tensor at a time through a memory map, written one tensor at a time.

In: a file whose pickle is a dict of tensors, or has one under the key "module" as SwissArmyTransformer saves it.
Reading never runs code of a pickle: `weights_only` refuses every name except those of tensors, and the plain
bookkeeping that training saves beside the weights is replaced by an empty stand-in.
"""

import io
import math
import pickle
import re
import sys
import zipfile
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import ml_dtypes
import numpy as np

from cogvideo_jax.errors import ConversionError, conversion_errors
from cogvideo_jax.runtime.safetensors_stream import Leaf, as_bytes

OLDEST_TORCH = (2, 10)  # the first whose weights_only withstands crafted files (CVE-2025-32434, CVE-2026-24747)
OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # first bytes of files of torch before 1.6
OLD_FORMAT_LIMIT = 2 << 30  # bytes; such files cannot be mapped
MAPPED = 64 << 20  # bytes to read before the map is renewed, which frees its pages
ALIGNMENT = 64  # bytes; alignment of every tensor in the file, as torch writes it
NUMPY = {
    name: np.dtype(name)
    for name in ("float16", "float32", "float64", "int64", "int32", "int16", "int8", "uint8", "bool")
} | {"bfloat16": np.dtype(ml_dtypes.bfloat16)}
# Random states and command-line arguments, as found beside "module" in a training checkpoint.
BOOKKEEPING = (
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
    "argparse.Namespace",
)


class StandIn:
    """Empty replacement for an object that is not needed."""

    def __init__(self, *_):
        pass

    def __setstate__(self, _):
        pass


def import_torch() -> Any:
    """Imports torch.

    Raises:
      ConversionError: it is not installed, or too old to be safe.
    """
    try:
        import torch
    except ImportError as error:
        raise ConversionError('files of torch need the extra [convert]: pip install ".[convert]"') from error
    version = tuple(int(part) for part in re.findall(r"\d+", torch.__version__)[:2])
    if version < OLDEST_TORCH:
        oldest = ".".join(map(str, OLDEST_TORCH))
        raise ConversionError(
            f"a crafted file can make torch {torch.__version__} run code; install torch {oldest} or later"
        )
    return torch


class TorchFile:
    """Open file of tensors; `leaves` has the type and shape of each name.

    Args:
      label: name of the file in errors.

    Raises:
      ConversionError: the file is damaged, is not a dict of plain tensors, or its pickle asks for other objects.
    """

    def __init__(self, path: Path, *, label: str):
        self._path, self._label, self._mapped = path, label, zipfile.is_zipfile(path)
        if self._mapped:
            _check_archive(path, label)
        elif not is_old_format(path):
            raise ConversionError(f"{label} is damaged or not a torch file")
        elif path.stat().st_size > OLD_FORMAT_LIMIT:
            raise ConversionError(
                f"{label} has the format of torch before 1.6 and is too large to read at once; save it again"
            )
        self._tensors, self._read = self._load(), 0
        self.leaves = {name: _leaf(name, tensor, label) for name, tensor in self._tensors.items()}
        if sum(leaf.nbytes for leaf in self.leaves.values()) > path.stat().st_size:
            raise ConversionError(f"{label} is damaged: its tensors are larger than the file")

    def read(self, name: str) -> np.ndarray:
        """One tensor, a view of the map where possible."""
        size = self.leaves[name].nbytes
        if self._mapped and self._read and self._read + size > MAPPED:
            self._tensors.clear()
            self._tensors, self._read = self._load(), 0
        self._read += size
        return _as_numpy(self._tensors[name])

    def _load(self) -> dict[str, Any]:
        torch, label = import_torch(), self._label
        allowed = [(StandIn, name) for name in BOOKKEEPING]
        with conversion_errors(f"{label} is damaged or not a torch file"):
            try:
                with torch.serialization.safe_globals(allowed):
                    saved = torch.load(self._path, map_location="cpu", weights_only=True, mmap=self._mapped)
            except pickle.UnpicklingError as error:
                asked = re.search(r"GLOBAL (\S+)", str(error))
                if asked is None:
                    raise
                name = ascii(asked[1][:80])[1:-1]
                raise ConversionError(
                    f"{label} is refused: its pickle asks for {name}, which weights do not need"
                ) from error
            tensors = saved.get("module", saved) if isinstance(saved, dict) else None
            if not isinstance(tensors, dict) or not tensors or not all(map(torch.is_tensor, tensors.values())):
                raise ConversionError(
                    f"{label} has no weights; expected a dict of tensors, or one under the key 'module'"
                )
            return {str(name): tensor.detach() for name, tensor in tensors.items()}


def is_old_format(path: Path) -> bool:
    """True for a file written by torch before 1.6."""
    with path.open("rb") as file:
        return file.read(len(OLD_FORMAT)) == OLD_FORMAT


def _check_archive(path: Path, label: str) -> None:
    """Checks every member's checksum, and that none is compressed, because it could not be mapped."""
    with conversion_errors(f"{label} is damaged or not a torch file"), zipfile.ZipFile(path) as archive:
        if any(member.compress_type != zipfile.ZIP_STORED for member in archive.infolist()):
            raise ConversionError(f"{label} was compressed after torch wrote it; unpack it first")
        broken = archive.testzip()
        if broken is not None:
            raise ConversionError(f"{label} is damaged: the checksum of {broken!r} is wrong")


def _leaf(name: str, tensor: Any, label: str) -> Leaf:
    kind = str(tensor.dtype).removeprefix("torch.")
    if kind not in NUMPY or str(tensor.layout) != "torch.strided" or tensor.device.type != "cpu":
        raise ConversionError(f"{label}: {name[:80]!r} is a {kind} tensor, which is not supported")
    return Leaf(NUMPY[kind], tuple(tensor.shape))


def _as_numpy(tensor: Any) -> np.ndarray:
    if str(tensor.dtype) != "torch.bfloat16":
        return tensor.numpy()
    bits = tensor.contiguous().view(import_torch().int16).numpy()  # NumPy itself has no bfloat16
    return bits.view(ml_dtypes.bfloat16)


def write_torch_file(path: Path, leaves: dict[str, Leaf], *, chunks: Callable[[str], Iterable[np.ndarray]]) -> None:
    """Writes the file of `torch.save({"module": {name: tensor, ...}}, path)` with one chunk in memory at a time.

    Args:
      chunks: name -> arrays that fill the tensor from its first byte to its last.
    """
    torch = import_torch()
    with zipfile.ZipFile(path, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "data.pkl", [_structure(leaves, torch)])
        _add(archive, "byteorder", [sys.byteorder.encode()])
        for index, name in enumerate(leaves):
            _add(archive, f"data/{index}", (memoryview(as_bytes(chunk)) for chunk in chunks(name)))
        _add(archive, "version", [b"3\n"])


def _add(archive: zipfile.ZipFile, name: str, data: Iterable[bytes | memoryview]) -> None:
    """Adds a stored member; padding in its header aligns its data to ALIGNMENT."""
    member = zipfile.ZipInfo(f"archive/{name}")
    header = 30 + len(member.filename) + 20 + 4  # fixed part, name, the sizes in 64 bits, the head of the padding
    padding = -(archive.fp.tell() + header) % ALIGNMENT
    member.extra = b"FB" + padding.to_bytes(2, "little") + b"Z" * padding
    with archive.open(member, "w", force_zip64=True) as file:
        for part in data:
            file.write(part)


class _Saved(NamedTuple):
    """Placeholder for a tensor, or for its data if `is_storage`, while the structure is pickled."""

    index: int
    leaf: Leaf
    is_storage: bool


class _Structure(pickle.Pickler):
    """Pickles _Saved as torch pickles a tensor with its own storage; the data is in other members of the file."""

    def __init__(self, file: BinaryIO, torch: Any):
        super().__init__(file, protocol=2)
        self._torch = torch

    def persistent_id(self, value: Any) -> tuple | None:
        if not isinstance(value, _Saved) or not value.is_storage:
            return None
        storages = {"float16": "HalfStorage", "bfloat16": "BFloat16Storage", "float32": "FloatStorage"}
        storage = getattr(self._torch, storages[value.leaf.dtype.name])
        return ("storage", storage, str(value.index), "cpu", math.prod(value.leaf.shape))

    def reducer_override(self, value: Any) -> Any:
        if not isinstance(value, _Saved):
            return NotImplemented
        shape = value.leaf.shape
        strides = tuple(math.prod(shape[axis + 1 :]) for axis in range(len(shape)))
        arguments = (value._replace(is_storage=True), 0, shape, strides, False, OrderedDict())
        return self._torch._utils._rebuild_tensor_v2, arguments


def _structure(leaves: dict[str, Leaf], torch: Any) -> bytes:
    file = io.BytesIO()
    tensors = {name: _Saved(index, leaf, False) for index, (name, leaf) in enumerate(leaves.items())}
    _Structure(file, torch).dump({"module": tensors})
    return file.getvalue()
