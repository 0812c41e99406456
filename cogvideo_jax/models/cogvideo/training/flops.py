"""Operations of a training step, counted from the sizes: a multiplication and an addition are two.

What nobody needs is not counted: masked scores, logits of tokens without loss, gradients of frozen matrices. What is
computed twice to save memory is not counted either, so that a share of the peak by this count is the usual "MFU".
"""

from typing import NamedTuple

from cogvideo_jax.models.cogvideo.config import TransformerConfig
from cogvideo_jax.models.cogvideo.superres.config import SuperResolutionConfig
from cogvideo_jax.models.cogvideo.training.config import BackboneConfig
from cogvideo_jax.models.cogvideo.transformer.masks import across_frames, window_labels, within_frame
from cogvideo_jax.models.cogvideo.transformer.transformer import Remat
from cogvideo_jax.training.task import Work


class Flops(NamedTuple):
    """Of one example.

    Attributes:
      frozen: forward, in matrices that do not train.
      trained: forward, in matrices that train.
      attention: forward, scores and sums.
    """

    frozen: float
    trained: float
    attention: float

    @property
    def forward(self) -> float:
        return self.frozen + self.trained + self.attention

    @property
    def step(self) -> float:
        """Forward, gradients towards all activations, and gradients of what trains."""
        return 2 * self.frozen + 3 * (self.trained + self.attention)


def step_work(config: BackboneConfig) -> Work:
    """Of a training step of any transformer."""
    count = superres_flops if isinstance(config.model, SuperResolutionConfig) else transformer_flops
    flops, repeats = count(config.model, all_trained=config.all_trained), config.remat == Remat.EVERYTHING
    useful, forward = config.batch_size * flops.step, config.batch_size * flops.forward
    return Work(useful, useful + forward * repeats, config.microbatches * (3 if repeats else 2))


def transformer_flops(config: TransformerConfig, *, all_trained: bool) -> Flops:
    """The base, stage 1 and stage 2."""
    layout, width = config.layout, config.width
    s, frames, n = layout.text_length, layout.frames, layout.frame_tokens
    spatial = 4 * 2 * layout.length * width**2
    mlp = 2 * 2 * layout.length * width * config.mlp_width
    pairs = s * s + frames * n * s + int(within_frame(frames, layout.context_slots, n).sum())
    temporal = 0.0
    if config.temporal:
        temporal = 2 * (3 * layout.length + frames * n) * width**2
        labels = window_labels(layout.grid, config.window, shifted=False)
        same = (labels[:, None] == labels[None, :]).mean()  # of all pairs of places; shifted layers see a little less
        pairs += frames * n * s + same * int(across_frames(frames, layout.context_slots, n).sum())
    head = 2 * width * config.image_codes * (frames - layout.first_loss_slot) * n
    inherited, added = config.layers * (spatial + mlp) + head, config.layers * temporal
    attention = config.layers * 4 * width * pairs
    return Flops(0.0, inherited + added, attention) if all_trained else Flops(inherited, added, attention)


def superres_flops(config: SuperResolutionConfig, *, all_trained: bool) -> Flops:
    """Direct and iterative super-resolution."""
    width, s, fine = config.width, config.text_length, config.fine_tokens
    coarse = config.coarse.grid**2 if config.coarse else 0
    around = config.fine_kernel[0] * config.fine_kernel[1]
    mlp = 2 * 2 * (s + coarse + fine) * width * config.mlp_width
    head = 2 * width * config.image_codes * fine
    if config.coarse:
        around += config.coarse.kernel[0] * config.coarse.kernel[1]
        inherited, added = 4 * 2 * (s + coarse) * width**2, 4 * 2 * fine * width**2
        pairs = s * s + coarse * (s + coarse) + fine * around
    else:
        inherited, added = 4 * 2 * (s + fine) * width**2, 0.0
        pairs = s * s + fine * (s + around)
    frozen, trained = config.layers * (inherited + mlp) + head, config.layers * added
    attention = config.layers * 4 * width * pairs
    return Flops(0.0, frozen + trained, attention) if all_trained else Flops(frozen, trained, attention)
