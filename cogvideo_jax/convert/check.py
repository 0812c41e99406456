"""Checks the names, shapes and types of a checkpoint; errors are one sentence that stays short for 48 layers."""

import re
from collections.abc import Iterable

from cogvideo_jax.errors import ConversionError
from cogvideo_jax.runtime.safetensors_stream import Leaf

WEIGHTS = ("float16", "bfloat16", "float32")
LISTED = 12  # groups of names that are written out for each kind of fault


def check_leaves(
    found: dict[str, Leaf], expected: dict[str, tuple[int, ...]], *, source: object, listed: int = LISTED
) -> None:
    """Compares names and shapes, and requires floating-point types.

    Args:
      listed: how many groups of names are written out for each kind of fault.

    Raises:
      ConversionError: lists missing, unexpected and misshapen names, and those of other types.
    """
    both = found.keys() & expected.keys()
    misshapen = [name for name in both if found[name].shape != expected[name]]
    mistyped = [name for name in both if found[name].dtype.name not in WEIGHTS]
    faults = _listed("missing", expected.keys() - found.keys(), listed)
    faults += _listed("unexpected", found.keys() - expected.keys(), listed)
    faults += _listed("misshapen", misshapen, listed)
    if misshapen:
        first = min(misshapen)
        faults[-1] += f" (of the first {found[first].shape}, expected {expected[first]})"
    faults += _listed("not of a type that weights have", mistyped, listed)
    if mistyped:
        faults[-1] += f" (the first is {found[min(mistyped)].dtype})"
    if faults:
        raise ConversionError(f"{source} does not fit: " + "; ".join(faults))


def check_one_type(found: dict[str, Leaf], names: list[str], *, source: object) -> None:
    """Raises ConversionError unless all layers that become one leaf have one type."""
    types = {found[name].dtype.name for name in names}
    if len(types) > 1:
        raise ConversionError(
            f"{source} does not fit: {grouped(names)[0]} should have one type, not {' and '.join(sorted(types))}"
        )


def grouped(names: Iterable[str]) -> list[str]:
    """Groups names that differ only in their layer, `layers.{0..47}.bias`, and escapes unusual characters."""
    groups: dict[tuple[str, str | None], list[int]] = {}
    for name in sorted(names):
        number = re.search(r"\.(\d{1,6})(?=\.|$)", name)
        around = (name, None) if number is None else (name[: number.start(1)], name[number.end(1) :])
        groups.setdefault(around, []).append(int(number[1]) if number else 0)
    return [
        _escaped(before) + ("" if after is None else _span(layers) + _escaped(after))
        for (before, after), layers in groups.items()
    ]


def _escaped(text: str) -> str:
    return ascii(text[:100])[1:-1]


def _span(layers: list[int]) -> str:
    layers = sorted(layers)
    if len(layers) == 1:
        return str(layers[0])
    if layers == list(range(layers[0], layers[-1] + 1)):
        return f"{{{layers[0]}..{layers[-1]}}}"
    return "{" + ",".join(map(str, layers)) + "}"


def _listed(kind: str, names: Iterable[str], listed: int) -> list[str]:
    groups = grouped(names)
    if not groups:
        return []
    more = f" and {len(groups) - listed} more" if len(groups) > listed else ""
    return [f"{kind} {', '.join(groups[:listed])}{more}"]
