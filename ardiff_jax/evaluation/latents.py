"""What a latent refiner is measured by while it trains: it has no likelihood."""

import functools
from collections.abc import Iterable

import jax
import jax.numpy as jnp
import numpy as np
from jax.sharding import Mesh

from ardiff_jax import mesh as mesh_lib
from ardiff_jax import rng
from ardiff_jax.models import latents
from ardiff_jax.models.latents import LatentDenoiser

_TIME = 0.5  # at which estimates are measured


def measure(
  denoise: LatentDenoiser,
  params: dict,
  batches: Iterable[dict[str, np.ndarray]],
  *,
  seed: int,
  mesh: Mesh,
) -> dict[str, float]:
  """Returns means over the counted tokens.

  Args:
    denoise: estimates latents.
    params: its parameters, placed on the mesh.
    batches: {'tokens': int32[B, L], 'loss_mask': bool[B, L]}.
    seed: of the noise.
    mesh: devices.

  Returns:
    `round_trip`, the share of tokens that come back from their latents (all, unless two tokens have
    become one); and of the estimate of z_0 at time ½ `latent_error`, its squared error, where 1 is
    that of knowing nothing, and `latent_reading`, the share of tokens it gives.
  """
  root = rng.stream(jax.random.key(seed), 'latents')
  sums = []
  with mesh_lib.use(mesh):
    for index, batch in enumerate(batches):
      placed = mesh_lib.place_whole(mesh, batch)
      key = jax.random.fold_in(root, index)
      sums.append(_sums(denoise, params, placed['tokens'], placed['loss_mask'], key))
  *found, count = np.sum([np.asarray(x, np.float64) for x in sums], axis=0)
  names = 'round_trip', 'latent_error', 'latent_reading'
  return {name: float(x / count) for name, x in zip(names, found, strict=True)}


@functools.partial(jax.jit, static_argnames='denoise')
def _sums(denoise, params, tokens, counted, key):
  z_0 = denoise.encode(params, tokens)
  back = denoise.round(params, z_0).argmax(axis=-1) == tokens
  alpha, sigma = latents.signal(jnp.float32(_TIME))
  z_t = alpha * z_0 + sigma * jax.random.normal(key, z_0.shape)
  time = jnp.full(tokens.shape, _TIME)
  segment = denoise.segments(tokens, ~counted)
  found = denoise.estimate(params, tokens, z_t, jnp.zeros_like(z_t), time, segment)
  error = jnp.square(found - z_0).mean(axis=-1)
  total = lambda x: jnp.where(counted, x, 0.0).sum()  # noqa: E731
  read = denoise.round(params, found).argmax(axis=-1) == tokens
  return total(back), total(error), total(read), counted.sum()
