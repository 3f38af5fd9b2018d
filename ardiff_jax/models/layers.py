"""Layers of the transformer: linear maps, norms, and the noise level as a condition.

Parameters carry the logical names of their axes, see `mesh.RULES`.
"""

import functools

import flax.linen as nn
import jax
import jax.numpy as jnp

from ardiff_jax.mesh import num_parts


class Dense(nn.Module):
  """A linear map from the last axis to `features`.

  Attributes:
    features: output axes.
    axes: logical names of the kernel's axes, input first.
    zero: whether the kernel starts at zero rather than scaled by its fan-in.
    bias: whether a vector that starts at zero is added.
  """

  features: tuple[int, ...]
  axes: tuple[str, ...]
  zero: bool = False
  bias: bool = False

  @nn.compact
  def __call__(self, x: jax.Array) -> jax.Array:
    out_axes = tuple(range(1, len(self.features) + 1))
    init = nn.initializers.lecun_normal(in_axis=0, out_axis=out_axes)
    if self.zero:
      init = nn.initializers.zeros_init()
    kernel = self.param(
      'kernel', nn.with_logical_partitioning(init, self.axes), (x.shape[-1], *self.features)
    )
    y = matmul(x, kernel.reshape(x.shape[-1], -1))
    if self.bias:
      zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), self.axes[1:])
      y = add_vector(y, self.param('bias', zeros, self.features).reshape(-1))
    return y.reshape(*x.shape[:-1], *self.features)


class NoiseEmbedding(nn.Module):
  """Noise level to a condition vector: sinusoids of sigma, then a small MLP (DiT's)."""

  features: int
  bias: bool = False

  @nn.compact
  def __call__(self, sigma_BxR: jax.Array) -> jax.Array:
    frequencies = jnp.exp(-jnp.log(10_000.0) * jnp.arange(128, dtype=jnp.float32) / 128)
    angles = sigma_BxR[..., None].astype(jnp.float32) * frequencies[None, None]
    x = jnp.concatenate([jnp.cos(angles), jnp.sin(angles)], axis=-1)
    x = nn.silu(Dense((self.features,), ('sinusoid', 'condition'), bias=self.bias, name='in')(x))
    axes = ('condition', 'condition_out')
    return nn.silu(Dense((self.features,), axes, bias=self.bias, name='out')(x))


class Modulation(nn.Module):
  """Condition vector to `count` vectors of the model width, all zero at the start."""

  count: int
  model_dim: int
  bias: bool = False

  @nn.compact
  def __call__(self, condition: jax.Array) -> list[jax.Array]:
    axes = ('condition', 'modulation', 'embed')
    features = (self.count, self.model_dim)
    modulation = Dense(features, axes, zero=True, bias=self.bias, name='map')(condition)
    return [modulation[..., i, :] for i in range(self.count)]


def make_norm(kind: str, dtype: str, bias: bool = False, name: str | None = None) -> nn.Module:
  """Returns a 'layernorm' or an 'rmsnorm', computed in float32; the latter has no bias."""
  init = lambda of: nn.with_logical_partitioning(of, ('embed',))  # noqa: E731
  kwargs = dict(scale_init=init(nn.initializers.ones_init()), dtype=jnp.dtype(dtype), name=name)
  if kind == 'rmsnorm':
    return nn.RMSNorm(epsilon=1e-5, **kwargs)
  zeros = init(nn.initializers.zeros_init())
  return nn.LayerNorm(epsilon=1e-5, use_bias=bias, bias_init=zeros, **kwargs)


def modulate(x: jax.Array, shift_scale: list[jax.Array] | None) -> jax.Array:
  """Returns x·(1 + scale) + shift; x for None."""
  if shift_scale is None:
    return x
  shift, scale = shift_scale
  return x * (1.0 + scale) + shift


def matmul(x: jax.Array, kernel: jax.Array, dtype: jnp.dtype | None = None) -> jax.Array:
  """Returns x @ kernel, multiplied in the dtype of x; the kernel's gradient is added up, over rows
  and devices, in the dtype of the kernel.

  Args:
    x: [..., M].
    kernel: float32[M, N].
    dtype: of the result; None for that of x.
  """
  # On CPU the gradient of a 3-D product copies its operand, so rows are flattened; but not where
  # devices split the rows of a sequence: flattened, no device's would be neighbours.
  rows = x if num_parts('length') > 1 else x.reshape(-1, x.shape[-1])
  return _matmul(rows, kernel, dtype).reshape(*x.shape[:-1], kernel.shape[-1])


@functools.partial(jax.custom_vjp, nondiff_argnums=(2,))
def _matmul(x, kernel, dtype):
  return _product(x, kernel, dtype)


def _product(x, kernel, dtype):
  return jnp.matmul(x, kernel.astype(x.dtype), preferred_element_type=dtype)


def _matmul_forward(x, kernel, dtype):
  return _product(x, kernel, dtype), (x, kernel)  # not `_matmul`, for remat to see the product


def _matmul_backward(dtype, residuals, dy):
  x, kernel = residuals
  dx = jnp.matmul(dy, kernel.astype(x.dtype).T).astype(x.dtype)
  every_row = tuple(range(x.ndim - 1))
  dimensions = (every_row, every_row), ((), ())
  dkernel = jax.lax.dot_general(
    x.astype(dy.dtype), dy, dimensions, preferred_element_type=kernel.dtype
  )
  return dx, dkernel


_matmul.defvjp(_matmul_forward, _matmul_backward)


def add_vector(x: jax.Array, vector: jax.Array) -> jax.Array:
  """Returns x[..., n] + vector[n], in the dtype of x; gradients of the vector are added up in its
  own."""
  added = x.astype(vector.dtype) + jnp.expand_dims(vector, tuple(range(x.ndim - 1)))
  return added.astype(x.dtype)
