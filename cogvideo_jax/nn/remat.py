"""Rematerialisation: parts of a layer that the backward pass recomputes instead of keeping them."""

from enum import StrEnum

import jax


class Remat(StrEnum):
    """Parts of a layer that the backward pass recomputes to save memory, for at most one more forward pass."""

    NOTHING = "nothing"
    ALL_BUT_MATRICES = "all_but_matrices"  # keeps products with weights, which are most of the arithmetic
    EVERYTHING = "everything"


POLICIES = {
    Remat.ALL_BUT_MATRICES: jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    Remat.EVERYTHING: jax.checkpoint_policies.nothing_saveable,
}
