"""Rematerialisation: parts of a layer that the backward pass recomputes instead of keeping them."""

from enum import StrEnum

import jax

from cogvideo_jax.nn.blocked_attention import ATTENDED


class Remat(StrEnum):
    """Parts of a layer that the backward pass recomputes to save memory, for at most one more forward pass."""

    NOTHING = "nothing"
    ALL_BUT_MATRICES = "all_but_matrices"  # keeps products with weights and attention, which take most of the time
    EVERYTHING = "everything"


POLICIES = {
    Remat.ALL_BUT_MATRICES: jax.checkpoint_policies.save_from_both_policies(
        jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
        jax.checkpoint_policies.save_only_these_names(ATTENDED),
    ),
    Remat.EVERYTHING: jax.checkpoint_policies.nothing_saveable,
}
