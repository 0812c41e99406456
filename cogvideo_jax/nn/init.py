"""Initial values of parameters, with the names of their axes."""

import flax.linen as nn

matrix_init = nn.initializers.normal(0.02)


def scaled_init(layers: int) -> nn.initializers.Initializer:
    """N(0, 0.02 / sqrt(2 * layers)), for matrices that write to the residual stream."""
    return nn.initializers.normal(0.02 / (2 * layers) ** 0.5)


def partitioned(init: nn.initializers.Initializer, *axes: str | None) -> nn.initializers.Initializer:
    """Names the logical axes of a parameter; runtime/mesh.py maps them to mesh axes."""
    return nn.with_logical_partitioning(init, axes)
