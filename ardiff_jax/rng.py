"""Random keys: one root per run, a named stream per purpose, a fold per step.

No key is carried from step to step or stored: every key is a pure function of the seed, the name
of the stream and the step, so a resumed run draws what an uninterrupted one would.
"""

import zlib

import jax


def stream(root: jax.Array, name: str, *indices: int | jax.Array) -> jax.Array:
  """Returns the key of stream `name` at `indices` (a step, an example number, ...).

  Args:
    root: typed key of the run, `jax.random.key(seed)`.
    name: purpose of the stream; different names give unrelated keys.
    *indices: integers folded in, in this order.
  """
  key = jax.random.fold_in(root, zlib.crc32(name.encode()))
  for index in indices:
    key = jax.random.fold_in(key, index)
  return key


def low_discrepancy(key: jax.Array, n: int) -> jax.Array:
  """Returns float32[n] in [0, 1): a regular grid of spacing 1/n under one random shift.

  Each entry alone is uniform; together they cover [0, 1) evenly, which lowers the variance
  of a batch mean over times (Kingma et al. 2021, Variational Diffusion Models, §I.1).
  """
  shift = jax.random.uniform(key)
  return jax.numpy.mod(shift + jax.numpy.arange(n, dtype=jax.numpy.float32) / n, 1.0)


def golden(key: jax.Array, numbers: jax.Array) -> jax.Array:
  """Returns float32[...] in [0, 1): multiples of the golden ratio modulo 1 under one random shift.

  Each entry alone is uniform, and those of neighbouring numbers cover [0, 1) evenly. Unlike one of
  `low_discrepancy`, an entry does not depend on those beside it.

  Args:
    key: of the shift.
    numbers: int32[...].
  """
  shift = jax.random.bits(key, dtype=jax.numpy.uint32)
  turns = jax.numpy.asarray(numbers).astype(jax.numpy.uint32) * jax.numpy.uint32(2654435769) + shift
  return (turns >> 8).astype(jax.numpy.float32) * 2.0**-24  # 2654435769 / 2^32: the ratio
