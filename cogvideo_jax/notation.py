"""The dimension letters and the named arrays that every room uses.

| letter | meaning                       | letter | meaning                          |
|--------|-------------------------------|--------|----------------------------------|
| B      | batch                         | D      | width of the transformer         |
| T      | frames                        | A      | attention heads                  |
| H W    | pixels                        | K      | size of one head                 |
| h w    | rows, columns of a token grid | F      | inner width of the MLP           |
| N      | tokens a frame, h * w         | V      | vocabulary rows (image and text) |
| S      | text length                   | C      | image codes, the first C of V    |
| L      | sequence length, S + T * N    | G      | transformer layers               |
"""

import jax
import numpy as np
from jaxtyping import Bool, Float, Int, Int8, Key, Shaped, UInt8, UInt32

Array = jax.Array | np.ndarray
PyTree = dict | tuple | list | jax.Array

__all__ = ["Array", "Bool", "Float", "Int", "Int8", "Key", "PyTree", "Shaped", "UInt8", "UInt32"]
