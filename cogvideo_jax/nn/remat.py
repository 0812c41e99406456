"""What of a layer is computed again in the backward pass instead of being kept."""

from enum import StrEnum

import jax


class Remat(StrEnum):
    """What of a layer is computed again in the backward pass, to save memory for at most one forward pass more."""

    NOTHING = "nothing"
    ALL_BUT_MATRICES = "all_but_matrices"  # keeps what was multiplied by weights: most of the arithmetic
    EVERYTHING = "everything"


POLICIES = {
    Remat.ALL_BUT_MATRICES: jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
    Remat.EVERYTHING: jax.checkpoint_policies.nothing_saveable,
}
