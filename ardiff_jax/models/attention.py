"""Attention with rotary positions; the only caller of `jax.nn.dot_product_attention`."""

import jax
import jax.numpy as jnp


def attend(
  q_BxRxHxE: jax.Array,
  k_BxRxKxE: jax.Array,
  v_BxRxKxE: jax.Array,
  allowed: jax.Array | None,
) -> jax.Array:
  """Returns [B, R, H, E], attention of each query to the keys it is allowed.

  Args:
    q_BxRxHxE: queries; H is a multiple of K.
    k_BxRxKxE: keys.
    v_BxRxKxE: values.
    allowed: bool[R, R] or bool[B, R, R], query by key; None for all. A query without any key
      gives 0 (the library's softmax would give the mean of all values).
  """
  if allowed is None:
    return jax.nn.dot_product_attention(q_BxRxHxE, k_BxRxKxE, v_BxRxKxE)
  allowed = jnp.expand_dims(allowed, -3)  # heads
  allowed = allowed if allowed.ndim == 4 else allowed[None]
  out = jax.nn.dot_product_attention(q_BxRxHxE, k_BxRxKxE, v_BxRxKxE, mask=allowed)
  sees_any = allowed.any(axis=-1).swapaxes(1, 2)[..., None]
  return jnp.where(sees_any, out, 0)


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
