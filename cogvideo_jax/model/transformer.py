"""Transformer: CogVideo with both channels; CogView2 is the same with one frame and no temporal channel.

One set of functions for training and sampling: `__call__` reads whole sequences, `prefill` does the same and keeps keys
and values, `step` reads one token against that cache. A test holds every step to the whole pass.
"""

from typing import Any

import flax.linen as nn
import jax.numpy as jnp

from cogvideo_jax.model import cache as caches
from cogvideo_jax.model.attention import matrix_init, partitioned
from cogvideo_jax.model.block import Block, Call, layer_norm
from cogvideo_jax.model.cache import Cache
from cogvideo_jax.model.config import Compat, TransformerConfig
from cogvideo_jax.notation import Array, Bool, Float, Int


class Transformer(nn.Module):
    """Hidden states and logits of one layout.

    Attributes:
      config: every dimension.
      dtype: compute type; parameters are float32 at initialisation.
      remat: recompute each layer in the backward pass instead of keeping its activations.
    """

    config: TransformerConfig
    dtype: Any = jnp.float32
    remat: bool = False

    def setup(self):
        config = self.config
        table = partitioned(matrix_init, "vocab", "embed")
        positions = partitioned(matrix_init, None, "embed")
        self.token_table = self.param("token_table", table, (config.vocab_size, config.width))
        self.position_table = self.param("position_table", positions, (config.base_positions, config.width))
        if config.temporal:
            shape = (config.extra_positions, config.width)
            self.extra_positions = self.param("extra_positions", positions, shape)
        block = nn.remat(Block, prevent_cse=False) if self.remat else Block
        self.layers = nn.scan(
            block,
            variable_axes={"params": 0},
            split_rngs={"params": True, "dropout": True},
            in_axes=(0, nn.broadcast),
            length=config.layers,
            metadata_params={nn.PARTITION_NAME: "layers"},
        )(config, self.dtype)
        self.norm_final = layer_norm(None)
        self.embedding_dropout = nn.Dropout(config.dropout)

    def __call__(
        self,
        text: Int[Array, "B S"],
        text_mask: Bool[Array, "B S"],
        frames: Int[Array, "B T N"],
        *,
        text_log_weight: float | Float[Array, "B"] = 0.0,
        train: bool = False,
    ) -> Float[Array, "B L D"]:
        """Final hidden states of the whole sequence.

        Args:
          text: left-padded ids.
          text_mask: False on padding.
          frames: *inputs* in slot order (see `tokens.sequence.shift_right`); fewer slots than the layout are allowed.
          text_log_weight: added to frames' scores towards text in both channels.
          train: dropout on; needs the rng "dropout".
        """
        hidden, _ = self._whole(text, text_mask, frames, text_log_weight, train=train)
        return hidden

    def prefill(
        self,
        text: Int[Array, "B S"],
        text_mask: Bool[Array, "B S"],
        frames: Int[Array, "B g N"],
        *,
        text_log_weight: float | Float[Array, "B"] = 0.0,
        limited: bool = True,
        compat: Compat = Compat.EXACT,
    ) -> tuple[Float[Array, "B L D"], Cache]:
        """Reads text and g given frames; returns hidden states and a cache ready for position g * N.

        Args:
          limited: the spatial channel keeps only the frame in progress.
          compat: RELEASE repeats the released prefill's deviations.
        """
        hidden, keys = self._whole(text, text_mask, frames, text_log_weight, compat=compat, keep_keys=True)
        return hidden, caches.from_prefix(keys, text_mask, config=self.config, limited=limited)

    def step(
        self,
        token: Int[Array, "B"],
        index: Int[Array, ""],
        cache: Cache,
        *,
        text_log_weight: float | Float[Array, "B"] = 0.0,
    ) -> tuple[Float[Array, "B D"], Cache]:
        """One input token at position `index` (slot * N + offset). Returns its hidden state and the grown cache."""
        x = self._embed_tokens(token[:, None]) + self._frame_positions()[index].astype(self.dtype)
        call = Call(cache.text_mask, text_log_weight, index, Compat.EXACT, keep_keys=True, train=False)
        x, keys = self.layers(x, (self._shifted(), cache.layers()), call)
        cache = caches.write(cache, keys, index, self.config.layout.frame_tokens)
        return self.norm_final(x)[:, 0], cache

    def image_logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... C"]:
        """Float32 logits over the image codes, the only ids that are generated or trained."""
        return _project(hidden, self.token_table[: self.config.image_codes])

    def all_logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... V"]:
        """Float32 logits over the whole vocabulary."""
        return _project(hidden, self.token_table)

    def _whole(self, text, text_mask, frames, text_log_weight, compat=Compat.EXACT, keep_keys=False, train=False):
        batch, slots, frame_tokens = frames.shape
        position = jnp.maximum(jnp.cumsum(text_mask, axis=1) - 1, 0)
        x_text = self._embed_tokens(text) + self.position_table[position].astype(self.dtype)
        x_frames = self._embed_tokens(frames.reshape(batch, slots * frame_tokens))
        x_frames = x_frames + self._frame_positions()[: slots * frame_tokens].astype(self.dtype)
        x = jnp.concatenate([x_text, x_frames], axis=1)
        x = self.embedding_dropout(x, deterministic=not train)
        call = Call(text_mask, text_log_weight, None, compat, keep_keys, train)
        x, keys = self.layers(x, (self._shifted(), None), call)
        return self.norm_final(x), keys

    def _embed_tokens(self, ids: Int[Array, "B n"]) -> Float[Array, "B n D"]:
        return self.token_table[ids].astype(self.dtype)

    def _frame_positions(self) -> Float[Array, "TN D"]:
        """Position rows in slot order: time 0 from the inherited table, later times from the added one."""
        config, layout = self.config, self.config.layout
        n, start = layout.frame_tokens, config.first_frame_position
        rows = [self.position_table[start : start + n]]
        if layout.frames > 1:
            rows.append(self.extra_positions[: (layout.frames - 1) * n])
        by_time = jnp.concatenate(rows).reshape(layout.frames, n, config.width)
        return by_time[layout.times()].reshape(layout.image_length, config.width)

    def _shifted(self) -> Int[Array, "G"]:
        """0 in even layers, 1 in odd layers."""
        return jnp.arange(self.config.layers) % 2


def _project(hidden: Float[Array, "... D"], table: Float[Array, "V D"]) -> Float[Array, "... V"]:
    return jnp.einsum("...d,vd->...v", hidden.astype(jnp.float32), table.astype(jnp.float32))


def is_added(path: tuple[str, ...]) -> bool:
    """True for the parameters that CogVideo adds to CogView2: temporal channel, alpha, extra positions."""
    return any(name in {"temporal", "temporal_alpha", "extra_positions"} for name in path)
