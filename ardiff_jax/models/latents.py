"""Text as vectors: the latents of tokens, their noise, and the network that denoises them.

A token's latent z_0 is its row of a learned table, scaled to unit variance. Gaussian noise takes it
to z_t = α_t·z_0 + σ_t·n with α² + σ² = 1 and log α²/σ² = -2 log tan(πt/2) in [-15, 15] (the cosine
schedule of arXiv 2102.09672 in the form of arXiv 2107.00630). A linear head, which is the table
again, rounds latents to tokens. Where Diffusion-LM (arXiv 2205.14217) keeps embeddings from
collapsing by a penalty on their norm, here they all have the same.

The network is the transformer, over rows of two kinds: given tokens, shown as themselves, and
latents at their own times. It sees everything and estimates z_0, from z_t and from its own estimate
before (self-conditioning, arXiv 2208.04202).

Shapes: B batch, L length, V vocabulary, D model width, E latent width.
"""

import dataclasses

import flax.linen as nn
import jax
import jax.numpy as jnp

from ardiff_jax.models.layers import Dense, make_norm, matmul
from ardiff_jax.models.transformer import Transformer, TransformerConfig

TARGET, PROMPT, GUIDANCE, HIDDEN = range(4)  # segments, what a row is for

_MOST = 15.0  # of the log-SNR
_VOCAB_MULTIPLE = 128  # rows of the table are filled up to one, so that devices can split them
_TOLD = 10.0  # sinusoids are of noise levels, which go up to about this


def signal(time: jax.Array) -> tuple[jax.Array, jax.Array]:
  """Returns α and σ, float32[...], at times in [0, 1]."""
  t = jnp.clip(time, 1e-6, 1.0 - 1e-6)
  log_snr = jnp.clip(-2.0 * jnp.log(jnp.tan(0.5 * jnp.pi * t)), -_MOST, _MOST)
  return jnp.sqrt(jax.nn.sigmoid(log_snr)), jnp.sqrt(jax.nn.sigmoid(-log_snr))


class LatentNetwork(nn.Module):
  """Table and transformer.

  Attributes:
    config: of the transformer, conditioned by adaLN.
    latent_dim: E.
  """

  config: TransformerConfig
  latent_dim: int

  def setup(self):
    cfg = self.config
    self.network = Transformer(cfg)
    normal = nn.initializers.normal(1.0)
    of = lambda *axes: nn.with_logical_partitioning(normal, axes)  # noqa: E731
    rows = -(-cfg.vocab_size // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE
    self.table = self.param('table', of('vocab', None), (rows, self.latent_dim))
    self.segments = self.param(
      'segments',
      nn.with_logical_partitioning(nn.initializers.normal(0.02), (None, 'embed')),
      (4, cfg.model_dim),
    )
    self.entry = Dense((cfg.model_dim,), (None, 'embed'))
    self.exit_norm = make_norm(cfg.norm, cfg.dtype)
    self.exit = Dense((self.latent_dim,), ('embed', None), zero=True)

  def encode(self, tokens: jax.Array) -> jax.Array:
    """Returns float32[B, L, E], latents of int32[B, L]."""
    return _scaled(self.table[tokens])

  def round(self, z_BxLxE: jax.Array) -> jax.Array:
    """Returns float32[B, L, V], logits of the tokens."""
    return matmul(z_BxLxE, _scaled(self.table[: self.config.vocab_size]).T)

  def __call__(
    self,
    tokens: jax.Array,
    z_BxLxE: jax.Array,
    before_BxLxE: jax.Array,
    time: jax.Array,
    segment: jax.Array,
    deterministic: bool = True,
  ) -> jax.Array:
    """Returns float32[B, L, E], estimates of z_0; without meaning where tokens are given.

    Args:
      tokens: int32[B, L], read in segments PROMPT and GUIDANCE.
      z_BxLxE: noisy latents, read in segment TARGET.
      before_BxLxE: the estimate before, likewise; 0 for none.
      time: float32[B, L], of the latents.
      segment: int32[B, L]; HIDDEN rows show nothing of their tokens.
      deterministic: False to draw dropout.
    """
    at_zero, positions = jnp.zeros(tokens.shape), jnp.arange(tokens.shape[1])
    shown = self.network.embed(tokens, at_zero, positions)
    latents = self.entry(jnp.concatenate([z_BxLxE, before_BxLxE], axis=-1))
    kind = segment[..., None]
    x = jnp.where(kind == TARGET, latents, jnp.where(kind == HIDDEN, 0.0, shown))
    x += self.segments[segment]
    told = jnp.where(segment == TARGET, _TOLD * time, 0.0)
    features, _ = self.network.stream(
      x, sigma=told, positions=positions, deterministic=deterministic
    )
    return self.exit(self.exit_norm(features.x)).astype(jnp.float32)

  def everything(self, tokens: jax.Array) -> jax.Array:
    """Touches all parameters, to make them."""
    z = self.encode(tokens)
    time = jnp.zeros(tokens.shape)
    return self.round(self(tokens, z, z, time, jnp.zeros_like(tokens)))


def _scaled(z: jax.Array) -> jax.Array:
  return z * jax.lax.rsqrt(jnp.square(z).mean(axis=-1, keepdims=True) + 1e-8)


@dataclasses.dataclass(frozen=True)
class LatentDenoiser:
  """The network, and how a canvas is parted.

  Attributes:
    network: of latents.
    eos_id: token that ends a guidance.
  """

  network: LatentNetwork
  eos_id: int

  def init(self, key: jax.Array, length: int) -> dict:
    """Returns new parameters with their logical axes (boxed)."""
    return self.network.init(key, jnp.zeros((1, length), jnp.int32), method='everything')

  def encode(self, params: dict, tokens: jax.Array) -> jax.Array:
    """See `LatentNetwork.encode`."""
    return self.network.apply(params, tokens, method='encode')

  def round(self, params: dict, z_BxLxE: jax.Array) -> jax.Array:
    """See `LatentNetwork.round`."""
    return self.network.apply(params, z_BxLxE, method='round')

  def estimate(
    self,
    params: dict,
    tokens: jax.Array,
    z_BxLxE: jax.Array,
    before_BxLxE: jax.Array,
    time: jax.Array,
    segment: jax.Array,
    dropout_key: jax.Array | None = None,
  ) -> jax.Array:
    """Returns float32[B, L, E]; see `LatentNetwork`. Dropout is drawn with a typed key."""
    rngs = {} if dropout_key is None else {'dropout': dropout_key}
    deterministic = dropout_key is None
    return self.network.apply(
      params, tokens, z_BxLxE, before_BxLxE, time, segment, deterministic, rngs=rngs
    )

  def segments(self, tokens: jax.Array, given: jax.Array) -> jax.Array:
    """Returns int32[B, L]: TARGET where not bool[B, L] `given`, GUIDANCE up to the first two ends
    in a row of what is given from the start on, and PROMPT elsewhere."""
    leading = jnp.cumprod(given.astype(jnp.int32), axis=1) == 1
    is_end = leading & (tokens == self.eos_id)
    ends = is_end & jnp.pad(is_end, [(0, 0), (1, 0)])[:, :-1]  # the second of two
    later = jnp.cumsum(ends[:, ::-1], axis=1)[:, ::-1] > 0  # an end here or further on
    first = jnp.cumsum(ends, axis=1) - ends == 0  # none before
    given_as = jnp.where(leading & first & later, GUIDANCE, PROMPT)
    return jnp.where(given, given_as, TARGET)
