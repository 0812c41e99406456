"""Direct and iterative super-resolution models of CogView2, whose layers are the base's with another attention.

| model     | sequence                | a fine token looks at                        | added to the base            |
|-----------|-------------------------|----------------------------------------------|------------------------------|
| direct    | [text | coarse | fine]  | 5 x 5 coarse and 9 x 5 fine tokens around it | local channel, positions     |
| iterative | [text | fine]           | the text and 9 x 5 fine tokens around it     | positions                    |

Both read known fine tokens, with BOI in place of unknown ones, and give every fine token's logits at its own position.
In the direct model, text and coarse tokens use the base unchanged (text sees text; coarse tokens see the text and each
other in both directions); fine tokens use a separate channel, with keys of the coarse grid from the base. Norms and
MLPs are shared. Parameters have the same paths as in `transformer.transformer`.
"""

import flax.linen as nn
import flax.struct
import jax.numpy as jnp

from cogvideo_jax.errors import UserError
from cogvideo_jax.models.cogvideo.layout import ClipLayout, shift_right
from cogvideo_jax.models.cogvideo.superres.config import SuperResolutionConfig
from cogvideo_jax.models.cogvideo.superres.local_attention import Neighbourhood, attend_locally
from cogvideo_jax.models.cogvideo.transformer.block import Sandwich
from cogvideo_jax.models.cogvideo.transformer.spatial import spatial_attention
from cogvideo_jax.models.cogvideo.transformer.transformer import Backbone
from cogvideo_jax.nn.attention import Kernel, KeysValues, attend
from cogvideo_jax.nn.init import matrix_init, scaled_init
from cogvideo_jax.notation import Array, Bool, Float, Int


@flax.struct.dataclass
class Call:
    """Arguments that all layers of one call share.

    Attributes:
      text_mask: [B S], False on padding.
      train: dropout is on.
      kernel: PLAIN or BLOCKED.
    """

    text_mask: Bool[Array, "B S"]
    train: bool = flax.struct.field(pytree_node=False)
    kernel: Kernel = flax.struct.field(pytree_node=False)


class DirectBlock(Sandwich):
    """Layer with the base's attention for text and coarse tokens and the local channel for fine tokens."""

    config: SuperResolutionConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], call: Call):
        """Returns x and nothing to keep, as `nn.scan` wants it."""
        u = self._norm("norm_attention_in", x)
        config, coarse = self.config, self.config.coarse
        given = config.text_length + coarse.grid**2
        base = self._projections("spatial", scaled_init(config.layers))
        local = self._projections("local", matrix_init)
        base_query, base_keys = base.project(u[:, :given])
        dropout = self._dropout(call)
        on_given = spatial_attention(
            base_query,
            base_keys,
            layout=_given_layout(config),
            text_mask=call.text_mask,
            text_log_weight=0.0,
            next_drops=dropout.drops,
            kernel=call.kernel,
        )
        fine_query, fine_keys = local.project(u[:, given:])
        coarse_keys = KeysValues(*(keys[:, config.text_length :] for keys in base_keys))
        sources = (
            Neighbourhood(_on_grid(coarse_keys, coarse.grid), coarse.kernel),
            Neighbourhood(_on_grid(fine_keys, config.fine_grid), config.fine_kernel),
        )
        query = _to_grid(fine_query, config.fine_grid)
        on_fine = attend_locally(query, sources, drops=dropout.drops(), kernel=call.kernel).reshape(fine_query.shape)
        attended = jnp.concatenate([base.merge(on_given), local.merge(on_fine)], axis=1)
        return self._add(x, attended, call), None


class IterativeBlock(Sandwich):
    """Layer with the base's weights for text and fine tokens; fine tokens see the text and their neighbourhood."""

    config: SuperResolutionConfig

    @nn.compact
    def __call__(self, x: Float[Array, "B L D"], call: Call):
        """Returns x and nothing to keep, as `nn.scan` wants it."""
        config, length = self.config, self.config.text_length
        base = self._projections("spatial", scaled_init(config.layers))
        query, keys = base.project(self._norm("norm_attention_in", x))
        text = KeysValues(keys.k[:, :length], keys.v[:, :length])
        fine = KeysValues(keys.k[:, length:], keys.v[:, length:])
        dropout = self._dropout(call)
        on_text = attend(query[:, None, :length], text=text, text_mask=call.text_mask, drops=dropout.drops())[:, 0]
        on_fine = attend_locally(
            _to_grid(query[:, length:], config.fine_grid),
            (Neighbourhood(_on_grid(fine, config.fine_grid), config.fine_kernel),),
            text=text,
            text_mask=call.text_mask,
            drops=dropout.drops(),
            kernel=call.kernel,
        )
        context = jnp.concatenate([on_text, on_fine.reshape(fine.k.shape)], axis=1)
        return self._add(x, base.merge(context), call), None


class DirectSuperResolution(Backbone):
    """Direct model: coarse tokens -> all fine tokens in one pass."""

    config: SuperResolutionConfig

    def setup(self):
        if self.config.coarse is None:
            raise UserError("the direct model needs the sizes of the coarse grid, got coarse=None")
        self._make(DirectBlock, in_axes=(nn.broadcast,), extra_positions=self.config.fine_tokens)

    def __call__(
        self,
        text: Int[Array, "B S"],
        text_mask: Bool[Array, "B S"],
        coarse: Int[Array, "B n"],
        fine: Int[Array, "B N"],
        *,
        train: bool = False,
    ) -> Float[Array, "B L D"]:
        """Final hidden states of [text | coarse | fine]; each fine token's is at its own position.

        Internally, fine inputs are shifted right by one (BOI first, the last one dropped), because the release was
        trained that way. Attention is not causal: a token to be predicted must be BOI in `fine`.

        Args:
          text: left-padded ids.
          text_mask: False on padding.
          coarse: ids of the coarse picture.
          fine: known ids, and BOI for unknown ones.
          train: dropout is on; needs the rng "dropout".
        """
        first = self.config.coarse.first_position
        shifted = shift_right(fine[:, None], boi=self.config.boi)[:, 0]
        positions = self.position_table[first : first + coarse.shape[1]]
        parts = [
            self._embed_text(text, text_mask),
            self._embed_tokens(coarse) + positions.astype(self.dtype),
            self._embed_tokens(shifted) + self.extra_positions.astype(self.dtype),
        ]
        return _through_layers(self, parts, text_mask, train=train)

    @nn.nowrap
    def empty_inputs(self) -> tuple[Array, ...]:
        """One row of what `__call__` reads, for its shapes."""
        text, coarse, fine = (
            jnp.zeros((1, length), jnp.int32)
            for length in (self.config.text_length, self.config.coarse.grid**2, self.config.fine_tokens)
        )
        return text, text == 0, coarse, fine


class IterativeSuperResolution(Backbone):
    """Iterative model: fine tokens with gaps -> all fine tokens."""

    config: SuperResolutionConfig

    def setup(self):
        if self.config.coarse is not None:
            raise UserError("the iterative model reads no coarse grid: its config must have coarse=None")
        self._make(IterativeBlock, in_axes=(nn.broadcast,), extra_positions=self.config.fine_tokens)

    def __call__(
        self,
        text: Int[Array, "B S"],
        text_mask: Bool[Array, "B S"],
        fine: Int[Array, "B N"],
        *,
        train: bool = False,
    ) -> Float[Array, "B L D"]:
        """Final hidden states of [text | fine].

        Args:
          text: left-padded ids; the release keeps the first 16 of a text.
          text_mask: False on padding.
          fine: known ids, and BOI for unknown ones.
          train: dropout is on; needs the rng "dropout".
        """
        on_grid = self._embed_tokens(fine) + self.extra_positions.astype(self.dtype)
        return _through_layers(self, [self._embed_text(text, text_mask), on_grid], text_mask, train=train)

    @nn.nowrap
    def empty_inputs(self) -> tuple[Array, ...]:
        """One row of what `__call__` reads, for its shapes."""
        text, fine = (jnp.zeros((1, n), jnp.int32) for n in (self.config.text_length, self.config.fine_tokens))
        return text, text == 0, fine


def _through_layers(model: Backbone, parts: list[Array], text_mask: Bool[Array, "B S"], *, train: bool) -> Array:
    """Final hidden states of a sequence from its embedded parts."""
    x = jnp.concatenate(parts, axis=1)
    x = model.embedding_dropout(x) if train else x
    for layer in model.layers if model.unrolled else [model.layers]:
        x, _ = layer(x, Call(text_mask, train, model.kernel))
    return model.norm_final(x)


def _given_layout(config: SuperResolutionConfig) -> ClipLayout:
    """Layout of [text | coarse]: one frame of context, read in both directions."""
    return ClipLayout(config.text_length, config.coarse.grid, (0,), context_slots=1, first_loss_slot=0)


def _on_grid(keys: KeysValues, grid: int) -> KeysValues:
    return KeysValues(_to_grid(keys.k, grid), _to_grid(keys.v, grid))


def _to_grid(x: Float[Array, "B N A K"], grid: int) -> Float[Array, "B h w A K"]:
    return x.reshape(x.shape[0], grid, grid, *x.shape[2:])
