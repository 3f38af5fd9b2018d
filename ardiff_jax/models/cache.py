"""The key/value cache: what settled tokens left behind, of fixed size.

Settled tokens are context: they see only what settled no later, at noise level 0, so their keys
and values never change and are computed once.
"""

from typing import NamedTuple

import flax.linen as nn
import flax.struct
import jax
import jax.numpy as jnp

_AXES = ('layers', 'batch', 'heads', 'length', 'head_dim')


class Entries(NamedTuple):
  """What to write into a cache.

  Attributes:
    slots: int32[n] or int32[B, n], -1 for none.
    keys: [N, B, n, K, E], of N layers.
    values: [N, B, n, K, E].
  """

  slots: jax.Array
  keys: jax.Array
  values: jax.Array


@flax.struct.dataclass
class Cache:
  """Keys and values of every slot (see `layouts`), zero where none was written.

  Heads come before slots, as products of one head at a time read them.

  Attributes:
    keys: [N, B, K, M, E], of N layers, rotated to their positions.
    values: [N, B, K, M, E].
  """

  keys: jax.Array
  values: jax.Array

  @classmethod
  def empty(
    cls, num_layers: int, batch: int, num_slots: int, kv_heads: int, head_dim: int, dtype: str
  ) -> 'Cache':
    """Returns a cache of zeros, sharded like activations."""
    zeros = jnp.zeros((num_layers, batch, kv_heads, num_slots, head_dim), dtype)
    zeros = nn.with_logical_constraint(zeros, _AXES)
    return cls(zeros, zeros)

  @property
  def num_slots(self) -> int:
    """M."""
    return self.keys.shape[3]

  def no_entries(self, count: int, each: bool = False) -> 'Entries':
    """Returns entries of n = count slots, or of so many of `each` example, that write nothing."""
    layers, batch, heads, _, width = self.keys.shape
    zeros = jnp.zeros((layers, batch, count, heads, width), self.keys.dtype)
    return Entries(jnp.full((batch, count) if each else count, -1), zeros, zeros)

  def write(self, entries: 'Entries') -> 'Cache':
    """Returns the cache with other slots written."""
    slots = jnp.where(entries.slots < 0, self.num_slots, entries.slots)  # past the end: dropped

    def put(old, new):
      new = new.swapaxes(2, 3)
      if slots.ndim == 1:
        old = old.at[:, :, :, slots].set(new, mode='drop')
      else:  # each example has its own
        one = lambda old, new, slots: old.at[:, :, slots].set(new, mode='drop')  # noqa: E731
        old = jax.vmap(one, (1, 1, 0), 1)(old, new, slots)
      return nn.with_logical_constraint(old, _AXES)

    return Cache(put(self.keys, entries.keys), put(self.values, entries.values))
