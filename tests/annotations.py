"""Checks the array annotations of the package while the tests run: types and dimensions, nothing else.

Other annotations are left to the type checker; tests give fakes where the package names a class. Constructors are not
checked: JAX puts shapes, shardings and placeholders where a pytree has arrays.
"""

import types
import typing

import jax
import numpy as np
from beartype import beartype
from jaxtyping import AbstractArray


def check_arrays(function):
    """A function that raises if an array does not have the type and dimensions of its annotation."""
    annotations = getattr(function, "__annotations__", {})
    kept = {name: hint for name, hint in annotations.items() if _names_an_array(hint)}
    if not kept or function.__name__ == "__init__":
        return function
    function.__annotations__ = kept
    checked = beartype(function)
    function.__annotations__ = checked.__annotations__ = annotations
    return checked


def _names_an_array(hint) -> bool:
    if isinstance(hint, type) and not isinstance(hint, types.GenericAlias):
        return issubclass(hint, AbstractArray | jax.Array | np.ndarray)
    parts = typing.get_args(hint)
    return dict not in parts and any(map(_names_an_array, parts))  # with dict it is PyTree, which has more kinds
