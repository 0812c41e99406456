"""Transformer of CogVideo, with both channels; CogView2 is the same with one frame and no temporal channel.

Training and sampling share its functions: `__call__` reads whole sequences, `prefill` also keeps keys and values, and
`step` reads one token per frame against that cache. A test compares every step with the whole pass.
"""

from typing import Any

import flax.linen as nn
import jax
import jax.numpy as jnp

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.config import Compat, TransformerConfig
from cogvideo_jax.models.cogvideo.transformer import cache as caches
from cogvideo_jax.models.cogvideo.transformer.block import Block, Call, layer_norm
from cogvideo_jax.models.cogvideo.transformer.cache import Cache
from cogvideo_jax.nn.attention import FUSED, Kernel
from cogvideo_jax.nn.dropout import Dropout
from cogvideo_jax.nn.init import matrix_init, partitioned
from cogvideo_jax.nn.quantized import Matrix, quantize
from cogvideo_jax.nn.remat import POLICIES, Remat
from cogvideo_jax.notation import Array, Bool, Float, Int, PyTree
from cogvideo_jax.runtime.mesh import constrain


class Backbone(nn.Module):
    """Tables, layers, final norm and head, shared by the video model and super-resolution.

    Attributes:
      config: all dimensions.
      dtype: compute type; parameters are initialised in float32.
      remat: parts of a layer that the backward pass recomputes.
      kernel: attention kernel of a pass over all positions.
      unrolled: give each layer its own code and arrays (see `unroll`). Sampling needs this: a loop over stacked weights
        copies each layer's slice before it reads it.
    """

    config: Any
    dtype: Any = jnp.float32
    remat: Remat = Remat.NOTHING
    kernel: Kernel = Kernel.BLOCKED
    unrolled: bool = False

    def _make(self, block: type[nn.Module], *, in_axes: tuple, extra_positions: int | None) -> None:
        """Defines the submodules; called by a subclass's `setup`.

        Args:
          block: layer class; layers are scanned unless `unrolled`.
          in_axes: axes of the layer's arguments, as in `nn.scan`.
          extra_positions: rows of the added position table; None for a model without one.
        """
        config = self.config
        table = partitioned(matrix_init, "vocab", "embed")
        positions = partitioned(matrix_init, None, "embed")
        self.token_table = self.param("token_table", table, (config.vocab_size, config.width))
        self.position_table = self.param("position_table", positions, (config.base_positions, config.width))
        if extra_positions is not None:
            self.extra_positions = self.param("extra_positions", positions, (extra_positions, config.width))
        if self.remat != Remat.NOTHING:
            block = nn.remat(block, prevent_cse=False, policy=POLICIES[self.remat])
        if self.unrolled:
            self.layers = [block(config, self.dtype) for _ in range(config.layers)]
        else:
            self.layers = nn.scan(
                block,
                variable_axes={"params": 0},
                split_rngs={"params": True, "dropout": True},
                in_axes=in_axes,
                length=config.layers,
                metadata_params={nn.PARTITION_NAME: "layers"},
            )(config, self.dtype)
        self.norm_final = layer_norm(None)
        self.embedding_dropout = Dropout(config.dropout)

    def image_logits(self, hidden: Float[Array, "... D"]) -> Float[Array, "... C"]:
        """Float32 logits over the image codes, the only ids that are generated or trained."""
        return project(hidden, Matrix(self.token_table[: self.config.image_codes]), self.dtype)

    def _embed_tokens(self, ids: Int[Array, "B n"]) -> Float[Array, "B n D"]:
        return constrain(self.token_table[ids].astype(self.dtype), "batch", "length", "width")

    def _embed_text(self, text: Int[Array, "B S"], text_mask: Bool[Array, "B S"]) -> Float[Array, "B S D"]:
        """Embeds left-padded ids; positions count from the first that is not a pad."""
        position = jnp.maximum(jnp.cumsum(text_mask, axis=1) - 1, 0)
        return self._embed_tokens(text) + self.position_table[position].astype(self.dtype)


class Transformer(Backbone):
    """Transformer over the sequence of one layout."""

    config: TransformerConfig

    def setup(self):
        extra = self.config.extra_positions if self.config.temporal else None
        self._make(Block, in_axes=(0, nn.broadcast), extra_positions=extra)

    @nn.nowrap
    def empty_inputs(self) -> tuple[Array, ...]:
        """Arguments of `__call__` with one row, for their shapes."""
        layout = self.config.layout
        text = jnp.zeros((1, layout.text_length), jnp.int32)
        return text, text == 0, jnp.zeros((1, layout.frames, layout.frame_tokens), jnp.int32)

    def __call__(
        self,
        text: Int[Array, "B S"],
        text_mask: Bool[Array, "B S"],
        frames: Int[Array, "B T N"],
        *,
        text_log_weight: float | Float[Array, ""] | Float[Array, "B"] = 0.0,
        train: bool = False,
    ) -> Float[Array, "B L D"]:
        """Final hidden states of the whole sequence.

        Args:
          text: left-padded ids.
          text_mask: False on padding.
          frames: *inputs* in slot order (see `layout.shift_right`); there may be fewer slots than in the layout.
          text_log_weight: added to the frames' text scores in both channels.
          train: dropout is on; needs the rng "dropout".

        Raises:
          UserError: a text_log_weight with a fused attention kernel, which cannot apply it.
        """
        hidden, _ = self._whole(text, text_mask, frames, text_log_weight, train=train)
        return hidden

    def prefill(
        self,
        text: Int[Array, "B S"],
        text_mask: Bool[Array, "B S"],
        frames: Int[Array, "B g N"],
        *,
        text_log_weight: float | Float[Array, ""] | Float[Array, "B"] = 0.0,
        limited: bool = True,
        parallel_frames: int = 1,
        slots: int | None = None,
        int8: bool = False,
        compat: Compat = Compat.EXACT,
    ) -> tuple[Float[Array, "B L D"], Cache]:
        """Reads text and g given frames; returns hidden states and a cache ready for position g * N. Unrolled only.

        Args:
          limited: keep only the frames in progress in the spatial channel.
          parallel_frames: number of frames in progress at once.
          slots: capacity of the temporal channel; by default all slots of the layout.
          int8: store keys and values as int8.
          compat: RELEASE repeats the released prefill's deviations.
        """
        hidden, keys = self._whole(text, text_mask, frames, text_log_weight, compat=compat, keep_keys=True)
        how = dict(
            limited=limited, parallel_frames=parallel_frames, slots=slots or self.config.layout.frames, int8=int8
        )
        return hidden, caches.from_prefix(keys, text_mask, config=self.config, **how)

    def step(
        self,
        tokens: Int[Array, "B P"],
        index: Int[Array, "P"],
        cache: Cache,
        *,
        text_log_weight: float | Float[Array, ""] | Float[Array, "B"] = 0.0,
    ) -> tuple[Float[Array, "B P D"], Cache]:
        """Reads one token per frame at positions `index` (slot * N + offset). Returns hidden states and the cache."""
        x = self._embed_tokens(tokens) + self._frame_positions()[index].astype(self.dtype)
        call = Call(cache.text_mask, text_log_weight, index, Compat.EXACT, keep_keys=True, train=False)
        x, layers = self._unrolled_layers(x, cache.layers, call)
        return self.norm_final(x), cache.replace(layers=tuple(layers))

    def _unrolled_layers(self, x, past, call):
        """Applies unrolled layers; also returns the keys and values or caches of each."""
        kept = []
        for number, layer in enumerate(self.layers):
            x, own = layer(x, (number % 2, past[number]), call)
            kept.append(own)
        return x, kept

    def _whole(self, text, text_mask, frames, text_log_weight, compat=Compat.EXACT, keep_keys=False, train=False):
        batch, slots, frame_tokens = frames.shape
        x_text = self._embed_text(text, text_mask)
        x_frames = self._embed_tokens(frames.reshape(batch, slots * frame_tokens))
        x_frames = x_frames + self._frame_positions()[: slots * frame_tokens].astype(self.dtype)
        x = jnp.concatenate([x_text, x_frames], axis=1)
        x = self.embedding_dropout(x) if train else x
        if self.kernel in FUSED and not (isinstance(text_log_weight, float | int) and text_log_weight == 0):
            raise UserError(f"attention={self.kernel} cannot weight the text (text_log_weight); use attention=blocked")
        call = Call(text_mask, text_log_weight, None, compat, keep_keys, train, self.kernel)
        if self.unrolled:
            x, keys = self._unrolled_layers(x, [None] * self.config.layers, call)
        else:
            x, keys = self.layers(x, (self._shifted(), None), call)
        return self.norm_final(x), keys

    def _frame_positions(self) -> Float[Array, "TN D"]:
        """Position embeddings in slot order: time 0 from the inherited table, later times from the added one."""
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


def image_head(params: PyTree, config: Any) -> Matrix:
    """Output head of the image codes, rows [C D] of the token table; int8 if `as_int8` made it so."""
    if "image_head" in params:
        return Matrix(params["image_head"], params["image_head_scale"])
    return Matrix(params["token_table"][: config.image_codes])


def project(hidden: Float[Array, "... D"], table: Matrix, dtype: Any) -> Float[Array, "... V"]:
    """Logits over the rows of a table [V D], multiplied in the compute type and summed in float32."""
    logits = table.multiply("...d,vd->...v", hidden.astype(dtype), jnp.float32)
    return constrain(logits, "batch", "length", "codes") if logits.ndim == 3 else logits


def unroll(model: Backbone, params: PyTree) -> tuple[Backbone, PyTree]:
    """Model and parameters for sampling: stacked layers become layers_0, layers_1, ..."""
    rest = {name: leaf for name, leaf in params.items() if name != "layers"}
    layers = range(model.config.layers)
    own = {f"layers_{i}": jax.tree.map(lambda leaf: leaf[i], params["layers"]) for i in layers}  # noqa: B023
    return model.clone(unrolled=True), rest | own


def as_int8(own: str, leaf: Array, *, image_codes: int) -> dict[str, Array]:
    """Int8 form of a parameter ("a/b/c"), see `quantize`; the token table also gives the image head."""
    inside, _, name = own.rpartition("/")
    kept = quantize(name, leaf)
    if name == "token_table":
        kept |= quantize("image_head", leaf[:image_codes])
    return {(f"{inside}/{key}" if inside else key): x for key, x in kept.items()}


def stored_dtype(path: tuple[str, ...], dtype: jnp.dtype) -> jnp.dtype:
    """Storage type of a parameter in sampling, for a model that computes in `dtype`.

    Small parameters that meet float32 values anyway (norms, biases, alpha) stay float32.
    """
    small = path[-1].endswith("scale") or path[-1] == "temporal_alpha" or "bias" in path[-1]
    return jnp.dtype(jnp.float32) if small else dtype


def is_attention_plus(path: tuple[str, ...]) -> bool:
    """True for parameters added to CogView2: temporal channel, alpha, super-resolution's local channel, positions."""
    return any(name in {"temporal", "temporal_alpha", "local", "extra_positions"} for name in path)
