"""LoRA files (Hu et al. 2021, arXiv 2106.09685): reading them, and adding their changes to weights.

In: `pytorch_lora_weights.safetensors` as peft and diffusers write it, or the tensors of another file, whose keys a
function translates. For each matrix W [out, in] that it changes, a file has A [rank, in] and B [out, rank]:

    W' = W + scale * B A

Keys and shapes are checked when a file is opened. Tensors are read one matrix at a time, while weights are loaded.
"""

import dataclasses
import functools
import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import NamedTuple

import numpy as np
from pydantic import ConfigDict

from cogvideo_jax.errors import UserError
from cogvideo_jax.notation import Float
from cogvideo_jax.runtime.safetensors_stream import Leaf, read_header, read_leaf, require_finite
from cogvideo_jax.runtime.schemas import STRICT, NotNegativeFloat, Size, check, dataclass_schema, parse_json

METADATA = "lora_adapter_metadata"  # entry of the header: JSON, whose keys have the prefix of the tensors
FACTOR = re.compile(r"(.+)\.lora_([AB])\.weight")
TYPES = ("float16", "bfloat16", "float32")
SHOWN = 120  # characters of a key that an error repeats

Rename = Callable[[str], str | None]  # key of a file, without its prefix -> key of peft, or None if it is unknown


@dataclass_schema(STRICT | ConfigDict(extra="ignore"))
class AdapterSettings:
    """What a file says about its changes; peft writes much more, which is about training."""

    r: Size
    lora_alpha: NotNegativeFloat
    use_rslora: bool = False
    use_dora: bool = False
    rank_pattern: dict | None = None
    alpha_pattern: dict | None = None


class Factors(NamedTuple):
    """Keys in the file of the two factors of one change."""

    a: str
    b: str


@dataclasses.dataclass(frozen=True)
class LoraFile:
    """An open LoRA.

    Attributes:
      source: as the user named it.
      factors: torch name of each matrix that changes -> its keys in the file.
      read: key -> array.
      scale: factor of all changes that the file asks for; a user's own strength is multiplied on top.
    """

    source: Path
    factors: Mapping[str, Factors]
    read: Callable[[str], np.ndarray]
    scale: float

    def change(self, name: str) -> Float[np.ndarray, "o i"] | None:
        """B A for a matrix by its torch name, float32 and not scaled; None if the file does not change it.

        Raises:
          UserError: A or B has numbers that are NaN or infinite.
        """
        if name not in self.factors:
            return None
        a, b = (self._factor(key) for key in self.factors[name])
        return b @ a

    def _factor(self, key: str) -> np.ndarray:
        return require_finite(np.asarray(self.read(key), np.float32), name=key, path=self.source)


def merged(
    weight: Float[np.ndarray, "o i"], change: Float[np.ndarray, "o i"], *, scale: float
) -> Float[np.ndarray, "o i"]:
    """W + scale * change, computed in float32, in the type of W."""
    return (weight.astype(np.float32) + change * np.float32(scale)).astype(weight.dtype)


def read_lora(
    path: str | Path, shapes: Mapping[str, tuple[int, ...]], *, prefix: str, rename: Rename | None = None
) -> LoraFile:
    """Opens a safetensors file.

    Its scale is alpha / r if the header has them, otherwise 1.0, as in diffusers. The trainers of CogVideoX write
    no header, so their alpha is lost, and users pass alpha / r as the strength.

    Args:
      shapes: torch name -> shape [out, in] of every matrix that a LoRA may change.
      prefix: of all keys in the file, such as "transformer.".
      rename: translates keys without the prefix to those of peft.

    Raises:
      UserError: the file cannot be read or does not fit, see `lora_of`, or its header asks for another kind of change.
    """
    leaves, metadata = read_header(path)
    lora = lora_of(
        leaves, functools.partial(read_leaf, path), shapes=shapes, prefix=prefix, rename=rename, scale=1.0, source=path
    )
    if METADATA not in metadata:
        return lora
    where = f"{METADATA} of {path}"
    settings = parse_json(metadata[METADATA], dict, where=where)
    own = {key.removeprefix(prefix): value for key, value in settings.items() if key.startswith(prefix)}
    if not own.keys() & {"r", "lora_alpha"}:
        return lora
    ranks = {leaves[keys.a].shape[0] for keys in lora.factors.values()}
    return dataclasses.replace(lora, scale=_scale(check(own, AdapterSettings, where=where), ranks, where))


def lora_of(
    leaves: Mapping[str, Leaf],
    read: Callable[[str], np.ndarray],
    *,
    shapes: Mapping[str, tuple[int, ...]],
    prefix: str,
    rename: Rename | None,
    scale: float,
    source: str | Path,
) -> LoraFile:
    """A LoRA of any file's tensors.

    Args:
      leaves: key -> type and shape.
      read: key -> array.
      source: names the file in errors; for the other arguments see `read_lora`.

    Raises:
      UserError: names the first key that is unknown, lacks its partner, or has a shape or a type that does not fit.
    """
    factors: dict[str, dict[str, str]] = {}
    for key in sorted(leaves):
        name, factor = _place(key, prefix, rename, source)
        if name not in shapes:
            raise UserError(f"{source}: {_quoted(key)} changes {_quoted(name)}, which is no matrix of this model")
        factors.setdefault(name, {})[factor] = key
    if not factors:
        raise UserError(f"{source} is empty; expected keys such as {prefix}<matrix>.lora_A.weight")
    pairs = {name: _pair(keys, source) for name, keys in factors.items()}
    for name, pair in pairs.items():
        _check_shapes(pair, leaves, shapes[name], source)
    return LoraFile(Path(source), pairs, read, scale)


def _place(key: str, prefix: str, rename: Rename | None, source: str | Path) -> tuple[str, str]:
    """Torch name of the matrix that a tensor changes, and the factor that it is: A or B."""
    name = key.removeprefix(prefix) if key.startswith(prefix) else None
    if name is not None and rename is not None:
        name = rename(name)
    found = FACTOR.fullmatch(name or "")
    if found is None:
        expected = f"{prefix}<matrix>.lora_A.weight" if rename is None else f"a LoRA's keys, which start with {prefix}"
        raise UserError(f"{source} has the unknown key {_quoted(key)}; expected {expected}")
    return f"{found[1]}.weight", found[2]


def _pair(keys: dict[str, str], source: str | Path) -> Factors:
    if len(keys) < 2:
        [(factor, key)] = keys.items()
        raise UserError(f"{source} is incomplete: {_quoted(key)} has no {'B' if factor == 'A' else 'A'} beside it")
    return Factors(keys["A"], keys["B"])


def _check_shapes(keys: Factors, leaves: Mapping[str, Leaf], shape: tuple[int, ...], source: str | Path) -> None:
    """Raises UserError unless A is [rank, in] and B [out, rank] of a type that weights have."""
    outputs, inputs = shape
    rank = max((1, *leaves[keys.a].shape[:1]))
    for key, expected in ((keys.a, (rank, inputs)), (keys.b, (outputs, rank))):
        if leaves[key].shape != expected:
            raise UserError(f"{source}: {_quoted(key)} has the shape {leaves[key].shape}; expected {expected}")
        if leaves[key].dtype.name not in TYPES:
            raise UserError(f"{source}: {_quoted(key)} is {leaves[key].dtype}; expected {', '.join(TYPES)}")


def _quoted(key: str) -> str:
    return ascii(key[:SHOWN])


def _scale(settings: AdapterSettings, ranks: Iterable[int], where: str) -> float:
    """alpha / r, or alpha / sqrt(r) of rank-stabilised LoRA (Kalajdzievski 2023, arXiv 2312.03732)."""
    if settings.use_dora:
        raise UserError(f"{where}: use_dora is true; DoRA also scales weights, which is not supported")
    if settings.rank_pattern or settings.alpha_pattern:
        raise UserError(f"{where} has ranks or alphas of single matrices, which are not supported")
    other = [rank for rank in ranks if rank != settings.r]
    if other:
        raise UserError(f"{where}: r is {settings.r}, but the file has matrices of rank {other[0]}")
    return settings.lora_alpha / (settings.r**0.5 if settings.use_rslora else settings.r)
