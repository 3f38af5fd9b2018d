"""Functions of logits, computed a few tokens at a time, forward and backward.

A loss of [..., L, V] logits written as array expressions keeps several arrays of that size alive,
whatever the compiler fuses. Here every intermediate belongs to a slice of the tokens: live at once
are the logits, in the backward pass their gradient, and a small fraction of either.
"""

import functools
from collections.abc import Callable

import jax
import jax.numpy as jnp

from ardiff_jax.mesh import num_parts

_MAX_SLICES = 64  # enough to make the slices' memory small beside the logits'
_MIN_SLICE = 2**17  # elements below which slicing costs more than it saves


@functools.partial(jax.custom_vjp, nondiff_argnums=(0,))
def tokenwise(f: Callable[..., jax.Array], logits: jax.Array, *per_token: jax.Array) -> jax.Array:
  """Returns f(logits, *per_token), computed in slices along L; differentiable by the logits only.

  Args:
    f: of float[..., l, V] and arrays [..., l], gives [..., l]; no token's value may depend on
      another token. It may close over static values, not over arrays.
    logits: float[..., L, V].
    per_token: arrays [..., L].
  """
  return _forward(f, logits, *per_token)[0]


def _forward(f, logits, *per_token):
  return _sliced(f, -1, logits, *per_token), (logits, per_token)


def _backward(f, residuals, cotangent):
  logits, per_token = residuals

  def gradient(logits, cotangent, *per_token):
    return jax.vjp(lambda x: f(x, *per_token), logits)[1](cotangent)[0]

  return _sliced(gradient, -2, logits, cotangent, *per_token), *(None for _ in per_token)


tokenwise.defvjp(_forward, _backward)


def _sliced(f, axis, logits, *per_token):
  """f slice by slice; `axis` is that of the tokens in its result.

  Where devices split the tokens, a slice takes some of every device's.
  """
  parts = num_parts('length')
  if parts > 1 and logits.shape[-2] % parts == 0:
    per_token = (x.reshape(*x.shape[:-1], parts, -1) for x in per_token)
    apart = logits.reshape(*logits.shape[:-2], parts, -1, logits.shape[-1])
    result = _in_turn(f, axis, apart, *per_token)
    return result.reshape(logits.shape[: result.ndim - 1])
  return _in_turn(f, axis, logits, *per_token)


def _in_turn(f, axis, logits, *per_token):
  length = logits.shape[-2]
  rows = -(-length // max(1, min(_MAX_SLICES, logits.size // _MIN_SLICE)))
  if rows >= length:
    return f(logits, *per_token)

  def one(i, total):
    start = jnp.minimum(i * rows, length - rows)  # the last slice may repeat some tokens
    cut = functools.partial(jax.lax.dynamic_slice_in_dim, start_index=start, slice_size=rows)
    part = f(cut(logits, axis=logits.ndim - 2), *(cut(x, axis=x.ndim - 1) for x in per_token))
    return jax.lax.dynamic_update_slice_in_dim(total, part, start, axis=total.ndim + axis)

  result = jax.eval_shape(f, logits, *per_token)
  total = jnp.zeros(result.shape, result.dtype)
  return jax.lax.fori_loop(0, -(-length // rows), one, total)
