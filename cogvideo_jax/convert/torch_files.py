"""Files of `torch.save`: read one tensor at a time through a memory map, written one tensor at a time.

In: a file whose pickle is a dict of tensors, or has one under the key "module" as SwissArmyTransformer saves it, or
under "state_dict" as Lightning does.
Reading needs no torch and runs no code; see `torch_pickle.py`.
"""

import io
import json
import math
import pickle
import sys
import zipfile
import zlib
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from cogvideo_jax.convert.torch_pickle import LARGEST, Pickled, Storage, Tensor, read_pickle
from cogvideo_jax.convert.zip_members import data_start, members
from cogvideo_jax.errors import ConversionError, conversion_errors
from cogvideo_jax.runtime.files import open_input, whole_file
from cogvideo_jax.runtime.safetensors_stream import Leaf, as_bytes

OLD_FORMAT = b"\x80\x02\x8a\nl\xfc\x9cF\xf9 j\xa8P\x19."  # first bytes of files of torch before 1.6
OLD_HEADER = 3  # objects before the one that is saved: a magic number, a version, the machine
ALIGNMENT = 64  # bytes; alignment of every tensor in the file, as torch writes it
CHUNK = 1 << 20  # bytes of a checksum at a time
SETTINGS = "model_config.json"  # key beside "module" of files that this project writes, and name of a file


class Record(NamedTuple):
    """Data of a storage in the file.

    Attributes:
      checksum: CRC-32, or None in the old format.
    """

    start: int
    nbytes: int
    checksum: int | None


class TorchFile:
    """Open file of tensors.

    Attributes:
      leaves: name -> type and shape.
      settings: JSON text of the model's settings, or None.

    Args:
      label: name of the file in errors.

    Raises:
      ConversionError: the file is damaged, is not a dict of plain tensors, or its pickle asks for other objects.
    """

    def __init__(self, path: Path, *, label: str):
        self._path, self._label, self._sound = path, label, set()
        is_zip = zipfile.is_zipfile(path)
        if not is_zip and not is_old_format(path):
            raise ConversionError(f"{label} is damaged or not a torch file")
        with open_input(path) as file, conversion_errors(f"{label} is damaged or not a torch file"):
            pickled, self._records = _read_zip(file, label) if is_zip else _read_old(file, label)
        for storage in pickled.storages.values():
            self._check_size(storage)
        self._tensors, self.settings = _weights(pickled.saved, label)
        self.leaves = {name: Leaf(tensor.storage.dtype, tensor.shape) for name, tensor in self._tensors.items()}
        if sum(leaf.nbytes for leaf in self.leaves.values()) > path.stat().st_size:
            raise ConversionError(f"{label} is damaged: its tensors are larger than the file")

    def read(self, name: str) -> np.ndarray:
        """One tensor, as a read-only map of the file. Raises ConversionError if its checksum is wrong."""
        storage, offset, shape, strides = self._tensors[name]
        if not math.prod(shape):
            return np.empty(shape, storage.dtype)
        record = self._records[storage.key]
        self._check_sum(storage.key, record)
        flat = np.memmap(self._path, storage.dtype, "r", record.start, (storage.size,))[offset:]
        steps = [stride * storage.dtype.itemsize for stride in strides]
        return np.lib.stride_tricks.as_strided(flat, shape, steps, writeable=False)

    def _check_size(self, storage: Storage) -> None:
        record = self._records.get(storage.key)
        expected = storage.size * storage.dtype.itemsize
        if record is None or record.nbytes != expected:
            has = "is missing" if record is None else f"has {record.nbytes} bytes, expected {expected}"
            raise ConversionError(f"{self._label} is damaged: its data {storage.key} {has}")

    def _check_sum(self, key: str, record: Record) -> None:
        if record.checksum is None or key in self._sound:
            return
        found = 0
        with open_input(self._path) as file:
            file.seek(record.start)
            for begin in range(0, record.nbytes, CHUNK):
                found = zlib.crc32(file.read(min(CHUNK, record.nbytes - begin)), found)
        if found != record.checksum:
            raise ConversionError(f"{self._label} is damaged: the checksum of its data {key} is wrong")
        self._sound.add(key)


def is_old_format(path: Path) -> bool:
    """True for a file written by torch before 1.6."""
    with open_input(path) as file:
        return file.read(len(OLD_FORMAT)) == OLD_FORMAT


def _read_zip(file: BinaryIO, label: str) -> tuple[Pickled, dict[str, Record]]:
    """What was saved, and where the data of its storages lies."""
    with zipfile.ZipFile(file) as archive:
        found = members(archive, label)
        [root] = [name.removesuffix("data.pkl") for name in found if name.endswith("/data.pkl")]
        if any(member.compress_type != zipfile.ZIP_STORED for member in found.values()):
            raise ConversionError(f"{label} was compressed after torch wrote it; unpack it first")
        if f"{root}byteorder" in found and archive.open(f"{root}byteorder").read(10) != b"little":
            raise ConversionError(f"{label} was not written on a little-endian machine; save it again on one")
        if found[f"{root}data.pkl"].file_size > LARGEST:
            raise ConversionError(f"{label} is damaged: its pickle has more than {LARGEST} bytes")
        pickled = read_pickle(io.BytesIO(archive.read(f"{root}data.pkl")), label=label)
        stored = {key: found[f"{root}data/{key}"] for key in pickled.storages if f"{root}data/{key}" in found}
        records = {key: Record(data_start(archive, one), one.file_size, one.CRC) for key, one in stored.items()}
        return pickled, records


def _read_old(file: BinaryIO, label: str) -> tuple[Pickled, dict[str, Record]]:
    """The same in a file of torch before 1.6: pickles, then each storage's size and data in the order of their keys."""
    pickles = io.BytesIO(file.read(LARGEST))
    *_, pickled, keys = [read_pickle(pickles, label=label) for _ in range(OLD_HEADER + 2)]
    start, records = pickles.tell(), {}
    for key in keys.saved:
        file.seek(start)
        size = int.from_bytes(file.read(8), "little")
        nbytes = size * pickled.storages[key].dtype.itemsize
        records[key] = Record(start + 8, nbytes, None)
        start += 8 + nbytes
    if start != file.seek(0, io.SEEK_END):
        raise ConversionError(f"{label} is damaged: it has another size than its tensors")
    return pickled, records


def _weights(saved: Any, label: str) -> tuple[dict[str, Tensor], str | None]:
    """The tensors of what was saved, and the settings beside them."""
    table = saved if isinstance(saved, dict) else {}
    tensors, settings = table.get("module", table.get("state_dict", table)), table.get(SETTINGS)
    if not isinstance(tensors, dict) or not tensors or not all(isinstance(one, Tensor) for one in tensors.values()):
        raise ConversionError(f"{label} has no weights; expected a dict of tensors, or one under the key 'module'")
    return {str(name): tensor for name, tensor in tensors.items()}, settings if isinstance(settings, str) else None


def import_torch() -> Any:
    """Imports torch. Raises ConversionError if it is not installed."""
    try:
        import torch
    except ImportError as error:
        raise ConversionError(
            'writing files of torch needs the extra [convert], pip install ".[convert]"; or write .safetensors'
        ) from error
    return torch


def write_torch_file(
    path: Path,
    leaves: dict[str, Leaf],
    *,
    chunks: Callable[[str], Iterable[np.ndarray]],
    settings: dict[str, Any],
    replace: bool = False,
) -> None:
    """Writes the file of `torch.save({"module": {name: tensor, ...}}, path)` with one chunk in memory at a time.

    Args:
      chunks: name -> arrays that fill the tensor from its first byte to its last.
      settings: of the model, stored beside the tensors.

    Raises:
      UserError: the file cannot be written; see `whole_file`.
    """
    structure = _structure(leaves, settings)
    with whole_file(path, replace=replace) as draft, zipfile.ZipFile(draft, "w", zipfile.ZIP_STORED) as archive:
        _add(archive, "data.pkl", [structure])
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


def _structure(leaves: dict[str, Leaf], settings: dict[str, Any]) -> bytes:
    file = io.BytesIO()
    tensors = {name: _Saved(index, leaf, False) for index, (name, leaf) in enumerate(leaves.items())}
    _Structure(file, import_torch()).dump({"module": tensors} | ({SETTINGS: json.dumps(settings)} if settings else {}))
    return file.getvalue()
