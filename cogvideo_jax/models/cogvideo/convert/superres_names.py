"""Official names of CogView2's two super-resolution models <-> our parameter tree.

Both have a whole base transformer of their own and added positions for the 60x60 grid. The direct model also has a
second attention channel for the fine level, under the names that CogVideo uses for its temporal channel; the iterative
model reads and writes with the base's attention alone.
"""

from cogvideo_jax.models.cogvideo.convert.transformer_names import (
    ADDED_ATTENTION,
    ADDED_POSITIONS,
    Table,
    attention_rules,
    base_rules,
    in_every_layer,
)


def rules(*, direct: bool) -> Table:
    """Rules of the direct or of the iterative model, by our path."""
    fine = in_every_layer(attention_rules("local", *ADDED_ATTENTION)) if direct else {}
    return base_rules() | ADDED_POSITIONS | fine
