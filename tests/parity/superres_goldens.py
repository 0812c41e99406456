"""Configurations and weights of our super-resolution models that match a golden file."""

import math

import numpy as np

from cogvideo_jax.models.cogvideo.convert import superres_names, transformer_names
from cogvideo_jax.models.cogvideo.superres.config import CoarseGrid, SuperResolutionConfig


def superres_config(golden: dict, arrays: dict) -> SuperResolutionConfig:
    """The direct model of a file with coarse tokens, else the iterative one; the kernel is 2k-1 rows, k columns."""
    *before, length = golden["layout"]
    text_length, kernel, kernel2 = before[0], golden["kernel_size"], golden["kernel_size2"]
    coarse = None
    if "coarse" in arrays:
        first = int(arrays["position_ids"][text_length])
        coarse = CoarseGrid(math.isqrt(arrays["coarse"].shape[1]), first, (kernel2, kernel2))
    width = golden["hidden_size"]
    return SuperResolutionConfig(
        text_length=text_length,
        coarse=coarse,
        fine_grid=math.isqrt(length - before[-1]),
        fine_kernel=(2 * kernel - 1, kernel),
        vocab_size=golden["vocab_size"],
        image_codes=golden["num_image_tokens"],
        boi=golden["special_ids"]["<start_of_image>"],
        width=width,
        heads=golden["num_attention_heads"],
        layers=golden["num_layers"],
        mlp_width=4 * width,
        base_positions=golden["max_sequence_length"],
        dropout=0.0,
    )


def superres_params(official: dict[str, np.ndarray], config: SuperResolutionConfig) -> dict:
    """Official weights -> our tree."""
    table = superres_names.rules(direct=config.coarse is not None)
    return transformer_names.from_official(official, config, table=table)
