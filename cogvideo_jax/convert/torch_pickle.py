"""The pickle in a file of torch, read without unpickling: tensors are descriptions, and no function is called.

Python's own unpickler can be made to call functions, fill the memory or hash without end. Torch's `weights_only` calls
nothing either, but takes tensors whose data lies elsewhere in the file; here all that a tensor claims is checked.
"""

import io
import math
import pickletools
import re
from collections.abc import Callable, Iterable
from typing import Any, NamedTuple

import ml_dtypes
import numpy as np

from cogvideo_jax.errors import ConversionError, conversion_errors
from cogvideo_jax.runtime.schemas import shown

LARGEST = 1 << 20  # bytes of a pickle; one of a thousand tensors has about 200 kB
TYPES = {
    "HalfStorage": np.dtype(np.float16),
    "BFloat16Storage": np.dtype(ml_dtypes.bfloat16),
    "FloatStorage": np.dtype(np.float32),
    "DoubleStorage": np.dtype(np.float64),
    "LongStorage": np.dtype(np.int64),
    "IntStorage": np.dtype(np.int32),
    "ShortStorage": np.dtype(np.int16),
    "CharStorage": np.dtype(np.int8),
    "ByteStorage": np.dtype(np.uint8),
    "BoolStorage": np.dtype(np.bool_),
}
# Random states, sizes and command-line arguments, as found beside "module" in a training checkpoint.
BOOKKEEPING = (
    "numpy.core.multiarray._reconstruct",
    "numpy._core.multiarray._reconstruct",
    "numpy.core.multiarray.scalar",
    "numpy._core.multiarray.scalar",
    "numpy.ndarray",
    "numpy.dtype",
    "_codecs.encode",
    "argparse.Namespace",
    "builtins.bytearray",
    "builtins.complex",
    "builtins.set",
    "collections.Counter",
    "torch.Size",
    "torch.device",
    "torch.bfloat16",
    "torch.float16",
    "torch.float32",
)


class Storage(NamedTuple):
    """Data that tensors are views of.

    Attributes:
      key: its name in the file.
      size: number of elements.
    """

    key: str
    dtype: np.dtype
    size: int


class Tensor(NamedTuple):
    """View of a storage; offset and strides count elements."""

    storage: Storage
    offset: int
    shape: tuple[int, ...]
    strides: tuple[int, ...]


class _Name(NamedTuple):
    """Global that a pickle asks for."""

    name: str


class _Mark:
    """Where the arguments of an opcode begin."""


STAND_IN = object()  # for bookkeeping, which is not needed
MARK = _Mark()
PLAIN = (bool, int, float, str, bytes)
PYTHON_2 = "__builtin__."  # the module in pickles of protocol 2
CALLS = {"EXT1", "EXT2", "EXT4", "INST", "PERSID"}  # opcodes whose argument names something else


class Pickled(NamedTuple):
    """An object of dicts, lists, tuples, plain values, tensors and stand-ins, and the storages in it by key."""

    saved: Any
    storages: dict[str, Storage]


def read_pickle(file: io.BytesIO, *, label: str) -> Pickled:
    """The next object in a file.

    Raises:
      ConversionError: it is damaged, asks for anything else, or has a tensor that does not fit its storage.
    """
    reader = _Reader(label)
    with conversion_errors(f"{label} is damaged or not a torch file"):
        for opcode, argument, _ in pickletools.genops(file):
            reader.step(opcode.name, argument)
        return Pickled(reader.pop(), reader.storages)


class _Reader:
    """Stack and memo of a pickle, and the storages that it has named."""

    def __init__(self, label: str):
        self.storages: dict[str, Storage] = {}
        self._label, self._stack, self._memo = label, [], {}

    def pop(self) -> Any:
        return self._stack.pop()

    def step(self, opcode: str, argument: Any) -> None:
        """Follows one opcode."""
        if opcode in ACTIONS:
            ACTIONS[opcode](self, argument)
        elif type(argument) in PLAIN and opcode not in CALLS:
            self.push(argument)
        else:
            raise ConversionError(f"{self._label} is refused: its pickle has {opcode}, which weights do not need")

    def push(self, value: Any) -> None:
        self._stack.append(value)

    def join(self, count: int | None) -> None:
        """Makes the last values a tuple, those above the last mark for None."""
        self.push(tuple(self.marked() if count is None else [self.pop() for _ in range(count)][::-1]))

    def marked(self) -> list:
        """Everything above the last mark."""
        values = []
        while (value := self.pop()) is not MARK:
            values.append(value)
        return values[::-1]

    def keep(self, place: int | None) -> None:
        """Keeps the last value in the memo, in the next place for None."""
        self._memo[len(self._memo) if place is None else place] = self._stack[-1]

    def recall(self, place: int) -> None:
        self.push(self._memo[place])

    def put(self, pairs: list) -> None:
        """Fills the dict on the stack with keys and values in turn."""
        if self._stack[-1] is not STAND_IN:
            _fill(self._stack[-1], zip(pairs[::2], pairs[1::2], strict=True))

    def extend(self, values: list) -> None:
        if self._stack[-1] is not STAND_IN:
            self._stack[-1].extend(values)

    def name(self, words: Iterable[str]) -> None:
        self.push(self._known(".".join(words)))

    def persistent(self) -> None:
        self.push(self._storage(*self.pop()))

    def call(self) -> None:
        """Stands for a call of the name below its arguments."""
        arguments, name = self.pop(), self.pop()
        self.push(self._made(name, *arguments))

    def _known(self, name: str) -> _Name:
        if name.startswith(PYTHON_2):
            name = "builtins." + name.removeprefix(PYTHON_2)
        rebuilt = ("torch._utils._rebuild_tensor", "torch._utils._rebuild_tensor_v2", "torch._utils._rebuild_parameter")
        if name in BOOKKEEPING or name in rebuilt or name == "collections.OrderedDict" or _storage_type(name):
            return _Name(name)
        named = ascii(name[:80])[1:-1]
        raise ConversionError(f"{self._label} is refused: its pickle asks for {named}, which weights do not need")

    def _made(self, name: _Name, *arguments: Any) -> Any:
        match name.name:
            case "collections.OrderedDict":
                return _fill({}, *arguments)
            case "torch._utils._rebuild_tensor" | "torch._utils._rebuild_tensor_v2":
                return self._tensor(*arguments)
            case "torch._utils._rebuild_parameter":
                return arguments[0]
        return STAND_IN

    def _storage(self, kind: str, storage_type: _Name, key: str, device: str, size: int, view: None = None) -> Storage:
        dtype = _storage_type(storage_type.name)
        if kind != "storage" or dtype is None or not re.fullmatch(r"\d{1,20}", key) or not _are_sizes(size) or view:
            raise ConversionError(f"{self._label} is damaged: one of its storages has no type, name or size")
        if not re.fullmatch(r"cpu|cuda(:\d{1,4})?", device):
            raise ConversionError(f"{self._label} is damaged: a tensor on {shown(device)}, expected cpu or cuda:N")
        storage = Storage(key, dtype, size)
        if self.storages.setdefault(key, storage) != storage:
            raise ConversionError(f"{self._label} is damaged: its storage {key} has two types or sizes")
        return storage

    def _tensor(
        self,
        storage: Storage,
        offset: int,
        shape: tuple,
        strides: tuple,
        grad: Any = None,
        hooks: Any = None,
        *more: Any,
    ) -> Tensor:
        """A tensor inside its storage; `more` has the bits of conjugate and negative views."""
        if any(more):
            raise ConversionError(f"{self._label} has a negated or conjugated view, which is not supported")
        fits = _are_sizes(offset, *shape, *strides) and len(shape) == len(strides) and isinstance(storage, Storage)
        last = offset + sum((side - 1) * stride for side, stride in zip(shape, strides)) if fits else 0
        if not fits or (math.prod(shape) and last >= storage.size):
            raise ConversionError(f"{self._label} is damaged: one of its tensors lies outside its storage")
        return Tensor(storage, offset, shape, strides)


def _are_sizes(*sizes: Any) -> bool:
    return all(type(size) is int and 0 <= size < 2**48 for size in sizes)


def _storage_type(name: str) -> np.dtype | None:
    module, _, kind = name.rpartition(".")
    return TYPES.get(kind) if module == "torch" else None


def _fill(table: dict, pairs: Iterable[tuple[Any, Any]] = ()) -> dict:
    """Adds to a dict. Keys are plain, since others could take for ever to be hashed, and none comes twice."""
    for key, value in pairs:
        if type(key) not in (str, int) or key in table:
            raise ValueError("a key that is no name, or a second one of a name")
        table[key] = value
    return table


ACTIONS: dict[str, Callable[[_Reader, Any], Any]] = {
    "PROTO": lambda reader, _: None,
    "FRAME": lambda reader, _: None,
    "STOP": lambda reader, _: None,
    "NONE": lambda reader, _: reader.push(None),
    "NEWTRUE": lambda reader, _: reader.push(True),
    "NEWFALSE": lambda reader, _: reader.push(False),
    "MARK": lambda reader, _: reader.push(MARK),
    "EMPTY_DICT": lambda reader, _: reader.push({}),
    "EMPTY_LIST": lambda reader, _: reader.push([]),
    "EMPTY_TUPLE": lambda reader, _: reader.push(()),
    "TUPLE": lambda reader, _: reader.join(None),
    "TUPLE1": lambda reader, _: reader.join(1),
    "TUPLE2": lambda reader, _: reader.join(2),
    "TUPLE3": lambda reader, _: reader.join(3),
    "SETITEM": lambda reader, _: reader.put([reader.pop(), reader.pop()][::-1]),
    "SETITEMS": lambda reader, _: reader.put(reader.marked()),
    "APPEND": lambda reader, _: reader.extend([reader.pop()]),
    "APPENDS": lambda reader, _: reader.extend(reader.marked()),
    "PUT": _Reader.keep,
    "BINPUT": _Reader.keep,
    "LONG_BINPUT": _Reader.keep,
    "MEMOIZE": _Reader.keep,
    "GET": _Reader.recall,
    "BINGET": _Reader.recall,
    "LONG_BINGET": _Reader.recall,
    "GLOBAL": lambda reader, name: reader.name(name.split()),
    "STACK_GLOBAL": lambda reader, _: reader.name([reader.pop(), reader.pop()][::-1]),
    "BINPERSID": lambda reader, _: reader.persistent(),
    "REDUCE": lambda reader, _: reader.call(),
    "NEWOBJ": lambda reader, _: reader.call(),
    "BUILD": lambda reader, _: reader.pop(),  # attributes of an ordered dict or a stand-in
}
