"""Fused attention kernels, which never write the scores to memory; neither drops probabilities.

SPLASH (TPU) knows its masks at compile time and does not compute fully masked blocks; CUDNN (NVIDIA) adds masks to the
scores, in bfloat16 or float16 only.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp
import numpy as np
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_mask
from jax.sharding import PartitionSpec

from cogvideo_jax.notation import Array, Bool, Float
from cogvideo_jax.runtime.mesh import RULES, parts_of

LANES = 128  # sequence lengths in a TPU kernel are multiples of this
BLOCKS = (512, 384, 256, 128)


def fused_attention(
    query: Float[Array, "B g Q A K"],
    text: tuple[Array, Array],
    local: tuple[Array, Array],
    *,
    text_mask: Bool[Array, "B S"],
    masks: Bool[np.ndarray, "g Q M"],
    implementation: Callable[..., Array],
) -> Float[Array, "B g Q A K"]:
    """Joint softmax attention over the text and the keys of a query's own group.

    Args:
      query: queries in groups (frames or windows).
      text: keys and values [B S A K].
      local: keys and values [B g M A K].
      text_mask: False on padding; every row has at least one real token.
      masks: True where a query sees a key of its group.
      implementation: `cudnn` or `splash`.
    """
    attend = functools.partial(implementation, masks=masks)
    if jax.sharding.get_abstract_mesh().empty:
        return attend(query, *text, *local, text_mask)
    rules = dict(RULES)
    groups = PartitionSpec(rules["batch"], None, None, rules["heads"], None)
    flat = PartitionSpec(rules["batch"], None, rules["heads"], None)
    specs = (groups, flat, flat, groups, groups, PartitionSpec(rules["batch"], None))
    return jax.shard_map(attend, in_specs=specs, out_specs=groups, check_vma=False)(query, *text, *local, text_mask)


def unmasked(
    query: Float[Array, "B L A K"],
    key: Float[Array, "B L A K"],
    value: Float[Array, "B L A K"],
    *,
    implementation: Callable[..., Array],
) -> Float[Array, "B L A K"]:
    """Softmax attention of every position to every other; each device computes its own rows and heads.

    Args:
      implementation: (query, key, value) -> output, on one device, such as `cudnn_unmasked`.
    """
    if jax.sharding.get_abstract_mesh().empty:
        return implementation(query, key, value)
    rules = dict(RULES)
    rows = rules["batch"] if len(query) % parts_of("batch") == 0 else None  # a single row is not shared
    spec = PartitionSpec(rows, None, rules["attended_heads"], None)
    return jax.shard_map(implementation, in_specs=(spec,) * 3, out_specs=spec, check_vma=False)(query, key, value)


def cudnn_unmasked(query, key, value) -> Array:
    return jax.nn.dot_product_attention(query, key, value, implementation="cudnn")


def splash_unmasked(query, key, value, *, interpret=False) -> Array:
    """Pads to whole blocks; padded keys are in a segment that no real query sees."""
    batch, length, heads, size = query.shape
    (block_q, padded_q), (block_kv, padded_kv) = _block(length), _block(key.shape[1])
    mask = splash_mask.FullMask((padded_q, padded_kv))
    kernel = _kernel(mask, heads, block_q, block_kv, interpret=interpret)
    rows = lambda padded, real: jnp.broadcast_to(jnp.arange(padded) < real, (batch, padded))  # noqa: E731
    segments = splash_attention_kernel.SegmentIds(
        q=jnp.ones((batch, padded_q), jnp.int32), kv=rows(padded_kv, key.shape[1]).astype(jnp.int32)
    )
    scaled = query * jnp.asarray(size**-0.5, query.dtype)
    padded = (
        _padded(x.swapaxes(1, 2), total) for x, total in ((scaled, padded_q), (key, padded_kv), (value, padded_kv))
    )
    out = jax.vmap(kernel)(*padded, segments)
    return out[:, :, :length].swapaxes(1, 2)


def cudnn(query, text_k, text_v, local_k, local_v, text_mask, *, masks) -> Array:
    groups = query.shape[1]
    k, v = joined(text_k, local_k), joined(text_v, local_v)
    on_text = jnp.broadcast_to(text_mask[:, None, None], (*query.shape[:3], text_mask.shape[1]))
    on_local = jnp.broadcast_to(masks[None], (len(query), *masks.shape))
    mask = jnp.concatenate([on_text, on_local], axis=-1)
    rows = len(query) * groups
    out = jax.nn.dot_product_attention(
        *(x.reshape(rows, *x.shape[2:]) for x in (query, k, v)),
        mask=mask.reshape(rows, 1, *mask.shape[2:]),
        implementation="cudnn",
    )
    return out.reshape(query.shape)


def splash(query, text_k, text_v, local_k, local_v, text_mask, *, masks, interpret=False) -> Array:
    """Runs one kernel for all groups that share a mask."""
    k, v = joined(text_k, local_k), joined(text_v, local_v)
    of_mask: dict[bytes, list[int]] = {}
    for group, mask in enumerate(masks):
        of_mask.setdefault(mask.tobytes(), []).append(group)
    order = [group for groups in of_mask.values() for group in groups]
    parts = [
        _splash_one(query[:, groups], k[:, groups], v[:, groups], text_mask, mask=masks[groups[0]], interpret=interpret)
        for groups in (np.array(groups) for groups in of_mask.values())
    ]
    return jnp.concatenate(parts, axis=1)[:, np.argsort(order)]


def _splash_one(query, k, v, text_mask, *, mask: Bool[np.ndarray, "Q M"], interpret: bool) -> Array:
    """Attention of groups that share a mask. Pads to whole blocks; padded queries see one key, which avoids NaN."""
    batch, groups, queries, heads, size = query.shape
    text_length, keys = text_mask.shape[1], k.shape[2]
    block_q, padded_q = _block(queries)
    block_kv, padded_kv = _block(keys)
    visible = np.zeros((padded_q, padded_kv), bool)
    visible[:queries, :text_length], visible[:queries, text_length:keys] = True, mask
    visible[queries:, text_length] = True
    kernel = _kernel(splash_mask.NumpyMask(visible), heads, block_q, block_kv, interpret=interpret)
    flat = lambda x, length: _padded(x.reshape(batch * groups, *x.shape[2:]).swapaxes(1, 2), length)  # noqa: E731
    valid = jnp.pad(text_mask, ((0, 0), (0, padded_kv - text_length)), constant_values=True)
    segments = splash_attention_kernel.SegmentIds(
        q=jnp.ones((batch * groups, padded_q), jnp.int32), kv=jnp.repeat(valid, groups, axis=0).astype(jnp.int32)
    )
    scaled = query * jnp.asarray(size**-0.5, query.dtype)
    out = jax.vmap(kernel)(flat(scaled, padded_q), flat(k, padded_kv), flat(v, padded_kv), segments)
    return out[:, :, :queries].swapaxes(1, 2).reshape(query.shape)


def _kernel(
    mask: splash_mask.Mask, heads: int, block_q: int, block_kv: int, *, interpret: bool
) -> Callable[..., Array]:
    """Splash kernel of one row, all of whose heads share a mask."""
    return splash_attention_kernel.make_splash_mha(
        splash_mask.MultiHeadMask([mask] * heads),
        block_sizes=splash_attention_kernel.BlockSizes(
            block_q=block_q,
            block_kv=block_kv,
            block_kv_compute=block_kv,
            block_q_dkv=block_q,
            block_kv_dkv=block_kv,
            block_kv_dkv_compute=block_kv,
            block_q_dq=block_q,
            block_kv_dq=block_kv,
        ),
        head_shards=1,
        q_seq_shards=1,
        interpret=interpret,
    )


def joined(text: Float[Array, "B S A K"], local: Float[Array, "B g M A K"]) -> Float[Array, "B g S+M A K"]:
    """The text before the keys, or values, of every group."""
    repeated = jnp.broadcast_to(text[:, None], (len(text), local.shape[1], *text.shape[1:]))
    return jnp.concatenate([repeated, local], axis=2)


def _padded(x: Float[Array, "b A n K"], length: int) -> Float[Array, "b A length K"]:
    return jnp.pad(x, ((0, 0), (0, 0), (0, length - x.shape[2]), (0, 0)))


def _block(length: int) -> tuple[int, int]:
    """Largest block size that pads at most an eighth more than necessary, and the padded length."""
    least = -(-length // LANES) * LANES
    padded = {block: -(-length // block) * block for block in BLOCKS}
    return next((block, total) for block, total in padded.items() if total <= least * 9 / 8)
