"""Attention with rotary positions: one entry point, and what is spared where nothing is seen.

  no mask        every row sees every row: the library's attention, cuDNN where it applies
  fixed          on TPU, masks known while compiling (reading, block's doubled pass): `splash`
  cached         few rows against a cache and themselves: one softmax over both, nothing copied
  span           rows sorted by position (the doubled pass): each part of the queries meets only the
                 keys it may see, of long texts five eighths of the context and its own windows
  anything else  queries a slice at a time against all keys

Masks are made where they are used, from a few integers a row, for a slice of the queries at a
time; scores too, and where there are several slices the backward pass makes them again. So memory
grows with the length, not with its square (without a mask, only where cuDNN applies). A query that
sees no key gives 0 (a plain softmax would give the mean of all values).

Shapes: B batch, R rows, C cached slots, Q queries, S keys, H query heads, K key/value heads,
G = H/K, E head width.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from ardiff_jax import masks
from ardiff_jax.masks import AttentionMask
from ardiff_jax.mesh import num_parts
from ardiff_jax.models import splash

KERNELS = ('auto', 'xla', 'splash')

_SLICE = 128  # queries whose scores are held at once
_PARTS = 4  # of the sorted queries, each with its own keys; n of them leave (n+1)/2n of the pairs
_NONE = -1e30  # score of a key that is not seen
_LOW = -1e29  # least top score, so that a query that sees no key gives all of them weight 0


def attend(
  q_BxRxHxE: jax.Array,
  k_BxRxKxE: jax.Array,
  v_BxRxKxE: jax.Array,
  mask: AttentionMask | None,
  cached: tuple[jax.Array, jax.Array] | None = None,
  kernel: str = 'auto',
) -> jax.Array:
  """Returns [B, R, H, E], attention of each query to the keys it may see.

  Args:
    q_BxRxHxE: queries; H is a multiple of K.
    k_BxRxKxE: keys, of all rows but the `mask.num_unseen` leading ones.
    v_BxRxKxE: values, likewise.
    mask: over these rows, [B, R] each; None for every row to see every row.
    cached: keys and values [B, C, K, E] of `mask.cached`.
    kernel: one of KERNELS, see `TransformerConfig.attention`.
  """
  device = _device()
  rows_apart = num_parts('length') > 1
  if rows_apart:
    keys = lambda x: nn.with_logical_constraint(x, ('batch', 'keys', 'heads', 'head_dim'))  # noqa: E731
    k_BxRxKxE, v_BxRxKxE = keys(k_BxRxKxE), keys(v_BxRxKxE)
  elif (kernel == 'splash' or (kernel == 'auto' and device.platform == 'tpu')) and (
    mask is None or mask.fixed is not None
  ):
    return splash.attend(q_BxRxHxE, k_BxRxKxE, v_BxRxKxE, mask, interpret=device.platform != 'tpu')
  if mask is None:
    implementation = 'cudnn' if kernel == 'auto' and _cudnn_applies(device, q_BxRxHxE) else 'xla'
    return jax.nn.dot_product_attention(
      q_BxRxHxE, k_BxRxKxE, v_BxRxKxE, implementation=implementation
    )
  rows = k_BxRxKxE, v_BxRxKxE, mask.keys
  see = functools.partial(masks.visible, sight=mask.sight, anneal=mask.anneal)
  if cached is not None:
    parts = [(*cached, mask.cached), rows]
    return _in_slices(q_BxRxHxE, mask.queries, parts, see)
  if mask.span is None or rows_apart:
    return _in_slices(q_BxRxHxE, mask.queries, [rows], see)
  return _sorted(q_BxRxHxE, rows, mask, see)


def _sorted(q, rows, mask, see):
  """Attention of rows in the order that `AttentionMask.span` promises."""
  num_rows, num_window = q.shape[1], mask.num_window
  context = *rows[:2], rows[2]._replace(tile=None)
  window = *rows[:2], rows[2]._replace(rank=None)
  out = []
  sections = (0, num_window, True), (num_window, num_rows - num_window, False)
  for first, count, in_window in sections:
    size = max(-(-count // _PARTS), _SLICE)
    for start in range(0, count, size):
      stop = min(start + size, count)
      parts = [_cut(context, slice(num_window, min(num_window + stop + mask.span, num_rows)))]
      if in_window:
        parts.append(
          _cut(window, slice(max(start - mask.span, 0), min(stop + mask.span, num_window)))
        )
      here = slice(first + start, first + stop)
      out.append(_in_slices(q[:, here], _cut(mask.queries, here), parts, see))
  return jnp.concatenate(out, axis=1)


def _cut(tree, rows: slice):
  return jax.tree.map(lambda x: x[:, rows], tree)


def _in_slices(q, queries, parts, see):
  """`_softmax`, for a slice of the queries at a time; of every device's, where they split them."""
  num_queries, num_devices = q.shape[1], num_parts('length')
  num_slices = -(-num_queries // (_SLICE * num_devices))
  if num_slices == 1:
    return _softmax(q, queries, parts, see)
  attend_slice = jax.checkpoint(functools.partial(_softmax, see=see))
  size = -(-num_queries // (num_slices * num_devices))

  def split(x):  # the queries added at the end are dropped again
    padding = size * num_slices * num_devices - num_queries
    x = jnp.pad(x, [(0, 0), (0, padding)] + [(0, 0)] * (x.ndim - 2))
    x = x.reshape(x.shape[0], num_devices, num_slices, size, *x.shape[2:])
    return jnp.moveaxis(x, 2, 0).reshape(num_slices, x.shape[0], num_devices * size, *x.shape[4:])

  out = jax.lax.map(lambda x: attend_slice(*x, parts), jax.tree.map(split, (q, queries)))
  out = out.reshape(num_slices, q.shape[0], num_devices, size, *q.shape[2:])
  return jnp.moveaxis(out, 0, 2).reshape(q.shape[0], -1, *q.shape[2:])[:, :num_queries]


def _softmax(q_BxQxHxE, queries, parts, see):
  """One softmax over keys that lie in several arrays, [(k [B, S, K, E], v, their `Keys`)]; `see` is
  `masks.visible` with its rules."""
  batch, num_queries, num_heads, width = q_BxQxHxE.shape
  num_kv_heads = parts[0][0].shape[2]
  q = q_BxQxHxE.reshape(batch, num_queries, num_kv_heads, num_heads // num_kv_heads, width)
  scores = []
  for k, _, keys in parts:
    score = _product('bqkge,bske->bkgqs', q, k)
    allowed_BxQxS = see(queries, keys)
    scores.append(jnp.where(allowed_BxQxS[:, None, None], score * width**-0.5, _NONE))
  top = functools.reduce(
    jnp.maximum, [x.max(axis=-1, keepdims=True, initial=_NONE) for x in scores]
  )
  top = jax.lax.stop_gradient(jnp.maximum(top, _LOW))
  out, total = 0.0, 0.0
  for score, (_, v, _) in zip(scores, parts, strict=True):
    weights = jnp.exp(score - top)
    total += weights.sum(axis=-1)
    out += _product('bkgqs,bske->bqkge', weights.astype(v.dtype), v)
  out /= jnp.where(total > 0.0, total, 1.0).transpose(0, 3, 1, 2)[..., None]
  return out.astype(q.dtype).reshape(q_BxQxHxE.shape)


def _product(axes: str, x: jax.Array, y: jax.Array) -> jax.Array:
  """Products added up in float32; of half precision, XLA has no such kernel on CPU."""
  if _device().platform == 'cpu':
    x, y = x.astype(jnp.float32), y.astype(jnp.float32)
  return jnp.einsum(axes, x, y, preferred_element_type=jnp.float32)


def _device() -> jax.Device | jax.sharding.AbstractDevice:
  """One of those that the program is for, which may be another kind than those present."""
  mesh, present = jax.sharding.get_abstract_mesh(), jax.devices()[0]
  target = present if mesh.empty else mesh.abstract_device
  return present if target.platform == present.platform else target


def _cudnn_applies(device: jax.Device, q: jax.Array) -> bool:
  """Whether cuDNN's fused attention takes these rows: half precision, Ampere or later, and not
  split over devices."""
  capability = getattr(device, 'compute_capability', '')  # '9.0'; of AMD devices 'gfx942'
  return (
    device.platform == 'gpu'
    and num_parts('length') == 1
    and capability.replace('.', '').isdecimal()
    and float(capability) >= 8.0
    and q.dtype in (jnp.bfloat16, jnp.float16)
    and q.shape[-1] % 8 == 0
    and q.shape[-1] <= 128
  )


def rotary_phases(positions: jax.Array, head_dim: int, base: float) -> tuple[jax.Array, jax.Array]:
  """Returns cos and sin, float32[1 or B, R, 1, E/2], of each position's rotation.

  Args:
    positions: int32[R] or int32[B, R].
    head_dim: E, even.
    base: wavelengths run from 2·pi to 2·pi·base (RoFormer, arXiv 2104.09864).
  """
  positions = jnp.atleast_2d(positions)
  frequencies = base ** (-jnp.arange(0, head_dim, 2, dtype=jnp.float32) / head_dim)
  angles = positions[:, :, None, None].astype(jnp.float32) * frequencies[None, None, None]
  return jnp.cos(angles), jnp.sin(angles)


def rotate(x_BxRxHxE: jax.Array, phases: tuple[jax.Array, jax.Array]) -> jax.Array:
  """Rotates pairs (e, e + E/2) of each head by the row's phase."""
  cos, sin = (phase.astype(x_BxRxHxE.dtype) for phase in phases)
  first, second = jnp.split(x_BxRxHxE, 2, axis=-1)
  return jnp.concatenate([first * cos - second * sin, second * cos + first * sin], axis=-1)
