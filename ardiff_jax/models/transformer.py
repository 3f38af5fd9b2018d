"""The one network of this codebase: a pre-norm transformer over rows of tokens.

  tokens, noise level, positions, attention mask  ->  logits

Rotary positions are explicit, so rows may repeat or skip positions; noise conditioning is per
row, so every position may be at its own noise level. Layers run under `nn.scan`.

Shapes: B batch, R rows, D model width, H query heads, K key/value heads, E head width,
V vocabulary.
"""

import dataclasses
import functools
from typing import NamedTuple

import flax.linen as nn
import jax
import jax.numpy as jnp

from ardiff_jax.masks import AttentionMask
from ardiff_jax.mesh import num_parts
from ardiff_jax.models.attention import KERNELS, attend, rotary_phases, rotate
from ardiff_jax.models.cache import Cache
from ardiff_jax.models.layers import (
  Dense,
  Modulation,
  NoiseEmbedding,
  add_vector,
  make_norm,
  matmul,
  modulate,
)

_VOCAB_MULTIPLE = 128  # embedding rows are padded to this, so that they shard over a mesh axis


@dataclasses.dataclass(frozen=True)
class TransformerConfig:
  """Static description of a transformer.

  Attributes:
    vocab_size: V, without the mask.
    model_dim: D.
    num_layers: number of blocks.
    num_heads: query heads; model_dim must be a multiple, with an even quotient (rotary).
    num_kv_heads: key/value heads (grouped-query attention); 0 means num_heads.
    mlp_dim: hidden width of the MLP; 0 means 4 * model_dim.
    norm: 'layernorm' or 'rmsnorm'.
    activation: 'gelu' or 'swiglu'.
    biases: 'none'; 'ddit' (of the MLP, the conditioning and the head, as in the public DiT of HDLM,
      MDLM and SEDD); or 'all' (GPT-2's: of every map and norm, but not of the head).
    positions: 'rotary', or 'learned': a vector a position, up to max_positions.
    max_positions: rows of that table; 0 for rotary.
    mask_positions: how many positions have a vector that is added to masks there; 0 for none. Rows
      that see nothing would else predict the same at every position.
    conditioning: 'none'; 'adaln': every norm shifted and scaled by the row's noise level; or
      'adaln_constant': the same, always told 0 (a time-agnostic MDLM).
    condition_dim: width of the condition; 0 means model_dim / 4.
    final_conditioning: whether the last norm is conditioned too.
    mask_mixing: γ; a row shows exp(-γσ)·E[token] + (1 - exp(-γσ))·E[mask] (HDLM's γ-hybrid).
    tie_embedding: whether the output projection is the token embedding.
    dropout: rate on the branches; 0 for none.
    remat: what of a block the backward pass computes again: 'none', 'full', or 'dots', all but its
      products with kernels, which are kept.
    rope_base: base of the rotary frequencies.
    attention: 'auto', the fastest kernel for the device, mask and dtype; 'xla', plain products; or
      'splash', TPU kernels for masks known while compiling (interpreted, slowly, elsewhere).
    dtype: computation dtype; parameters stay float32, logits are float32.
  """

  vocab_size: int
  model_dim: int
  num_layers: int
  num_heads: int
  num_kv_heads: int = 0
  mlp_dim: int = 0
  norm: str = 'layernorm'
  activation: str = 'gelu'
  biases: str = 'none'
  positions: str = 'rotary'
  max_positions: int = 0
  mask_positions: int = 0
  conditioning: str = 'none'
  condition_dim: int = 0
  final_conditioning: bool = True
  mask_mixing: float = 0.0
  tie_embedding: bool = True
  dropout: float = 0.0
  remat: str = 'full'
  rope_base: float = 10_000.0
  attention: str = 'auto'
  dtype: str = 'float32'

  def __post_init__(self):
    for field, low in _LOWEST.items():
      if getattr(self, field) < low:
        raise ValueError(f'{field} must be at least {low}, got {getattr(self, field)}')
    if not 0.0 <= self.dropout < 1.0:
      raise ValueError(f'dropout must be in [0, 1), got {self.dropout}')
    if not self.rope_base > 1.0:
      raise ValueError(f'rope_base must be above 1, got {self.rope_base}')
    if self.model_dim % (2 * self.num_heads):
      raise ValueError(
        f'model_dim {self.model_dim} must be a multiple of 2 x num_heads = {2 * self.num_heads}'
      )
    if self.num_heads % self.kv_heads:
      raise ValueError(
        f'num_heads {self.num_heads} must be a multiple of num_kv_heads {self.kv_heads}'
      )
    for field, known in _CHOICES.items():
      if getattr(self, field) not in known:
        raise ValueError(f'{field} {getattr(self, field)!r} must be one of {", ".join(known)}')
    if (self.positions == 'learned') != (self.max_positions > 0):
      raise ValueError(
        f'max_positions must be above 0 for learned positions and 0 for rotary ones, got '
        f'{self.max_positions} for {self.positions}'
      )
    if self.biases == 'all' and self.norm == 'rmsnorm':
      raise ValueError("biases 'all' needs norm layernorm: an rmsnorm has none")
    if not 0.0 <= self.mask_mixing <= 1.0:
      raise ValueError(f'mask_mixing must be in [0, 1], got {self.mask_mixing}')

  @property
  def kv_heads(self) -> int:
    return self.num_kv_heads or self.num_heads

  @property
  def head_dim(self) -> int:
    return self.model_dim // self.num_heads

  @property
  def conditions(self) -> bool:
    return self.conditioning != 'none'

  @property
  def condition_width(self) -> int:
    return self.condition_dim or self.model_dim // 4

  @property
  def hidden_dim(self) -> int:
    return self.mlp_dim or 4 * self.model_dim


_LOWEST = {
  'vocab_size': 1,
  'model_dim': 1,
  'num_layers': 1,
  'num_heads': 1,
  'num_kv_heads': 0,
  'mlp_dim': 0,
  'max_positions': 0,
  'mask_positions': 0,
  'condition_dim': 0,
}
_REMAT_POLICIES = {
  'full': None,
  'dots': jax.checkpoint_policies.dots_with_no_batch_dims_saveable,
}
_CHOICES = {
  'norm': ('layernorm', 'rmsnorm'),
  'activation': ('gelu', 'swiglu'),
  'biases': ('none', 'ddit', 'all'),
  'positions': ('rotary', 'learned'),
  'conditioning': ('none', 'adaln', 'adaln_constant'),
  'attention': KERNELS,
  'remat': ('none', *_REMAT_POLICIES),
  'dtype': ('float32', 'bfloat16'),
}


class Features(NamedTuple):
  """What the vocabulary projection reads of W rows.

  Attributes:
    x: [B, W, D], the stream behind the last block.
    condition: [B, W, D/4] of their noise levels; None without conditioning.
  """

  x: jax.Array
  condition: jax.Array | None

  def take(self, rows: jax.Array | int | None) -> 'Features':
    """Some of the rows: int32[W'] or int32[B, W'], the leading ones, or all."""
    return jax.tree.map(lambda x: _take_rows(x, rows), self)


class Transformer(nn.Module):
  """Rows of tokens to logits: `features`, then `project`."""

  config: TransformerConfig

  def setup(self):
    cfg = self.config
    rows = -(-(cfg.vocab_size + 1) // _VOCAB_MULTIPLE) * _VOCAB_MULTIPLE
    self.embedding = self.param(
      'embedding',
      nn.with_logical_partitioning(nn.initializers.normal(cfg.model_dim**-0.5), ('vocab', 'embed')),
      (rows, cfg.model_dim),
    )
    block = Block
    if cfg.remat != 'none':
      policy = _REMAT_POLICIES[cfg.remat]
      block = nn.remat(Block, prevent_cse=False, static_argnums=(6, 7), policy=policy)
    self.blocks = nn.scan(
      block,
      variable_axes={'params': 0},
      split_rngs={'params': True, 'dropout': True},
      in_axes=(0, *[nn.broadcast] * 5),
      length=cfg.num_layers,
      metadata_params={nn.PARTITION_NAME: 'layers'},
    )(cfg)
    if cfg.positions == 'learned':
      self.position_embedding = self.param(
        'position_embedding',
        nn.with_logical_partitioning(nn.initializers.normal(0.01), (None, 'embed')),
        (cfg.max_positions, cfg.model_dim),
      )
    if cfg.mask_positions:
      self.mask_position_embedding = self.param(
        'mask_position_embedding',
        nn.with_logical_partitioning(nn.initializers.normal(cfg.model_dim**-0.5), (None, 'embed')),
        (cfg.mask_positions, cfg.model_dim),
      )
    has_bias = cfg.biases != 'none'
    if cfg.conditions:
      self.noise_embedding = NoiseEmbedding(cfg.condition_width, has_bias)
      if cfg.final_conditioning:
        self.final_modulation = Modulation(2, cfg.model_dim, has_bias)
    self.final_norm = make_norm(cfg.norm, cfg.dtype, cfg.biases == 'all')
    if not cfg.tie_embedding:
      self.head = self.param(
        'head',
        nn.with_logical_partitioning(nn.initializers.lecun_normal(), ('embed', 'vocab')),
        (cfg.model_dim, rows),
      )
    if cfg.biases == 'ddit':
      zeros = nn.with_logical_partitioning(nn.initializers.zeros_init(), ('vocab',))
      self.head_bias = self.param('head_bias', zeros, (rows,))

  def __call__(
    self,
    tokens: jax.Array,
    *,
    sigma: jax.Array,
    positions: jax.Array,
    mask: AttentionMask | None = None,
    outputs: jax.Array | int | None = None,
    deterministic: bool = True,
  ) -> jax.Array:
    """Returns float32[B, W, V], logits of the rows `outputs`; arguments as in `features`."""
    features, _ = self.features(
      tokens, sigma=sigma, positions=positions, mask=mask, deterministic=deterministic
    )
    return self.project(features.take(outputs))

  def features(
    self,
    tokens: jax.Array,
    *,
    sigma: jax.Array,
    positions: jax.Array,
    mask: AttentionMask | None = None,
    cache: Cache | None = None,
    num_kept: int = 0,
    deterministic: bool = True,
  ) -> tuple[Features, tuple[jax.Array, jax.Array] | None]:
    """Runs the blocks.

    Args:
      tokens: int32[B, R] in 0..V, the mask being V.
      sigma: float32[B, R], noise level of the token each row shows; unused without conditioning.
      positions: int32[R] or int32[B, R].
      mask: who may attend to whom; None lets every row see every row.
      cache: keys and values that `mask.cached` describes; None for none.
      num_kept: how many of the last rows to return keys and values of, static.
      deterministic: False to draw dropout, from the 'dropout' stream.

    Returns:
      The rows, and with a cache keys and values of the kept ones, [N, B, num_kept, K, E].
    """
    x_BxRxD = self.embed(tokens, sigma, positions)
    kwargs = dict(cache=cache, num_kept=num_kept, deterministic=deterministic)
    return self.stream(x_BxRxD, sigma=sigma, positions=positions, mask=mask, **kwargs)

  def embed(self, tokens: jax.Array, sigma: jax.Array, positions: jax.Array) -> jax.Array:
    """Returns float32[B, R, D], what `stream` starts from; arguments as in `features`."""
    cfg = self.config
    table = self.embedding
    if num_parts('vocab') > 1 or num_parts('length') > 1:
      # the table is gathered, lest devices make rows for each other, of the whole batch
      table = nn.with_logical_constraint(table, ('vocab', 'activation'))
    x_BxRxD = jnp.take(table, tokens, axis=0)
    x_BxRxD = nn.with_logical_constraint(x_BxRxD, ('batch', 'length', 'activation'))
    if cfg.mask_mixing:
      mixed = -jnp.expm1(-cfg.mask_mixing * sigma)[..., None]
      x_BxRxD += mixed * (self.embedding[None, None, cfg.vocab_size] - x_BxRxD)
    if cfg.positions == 'learned':
      x_BxRxD += self.position_embedding[jnp.atleast_2d(positions)]
    if cfg.mask_positions:
      masked = (tokens == cfg.vocab_size)[..., None]
      x_BxRxD += jnp.where(masked, self.mask_position_embedding[jnp.atleast_2d(positions)], 0.0)
    return x_BxRxD

  def stream(
    self,
    x_BxRxD: jax.Array,
    *,
    sigma: jax.Array,
    positions: jax.Array,
    mask: AttentionMask | None = None,
    cache: Cache | None = None,
    num_kept: int = 0,
    deterministic: bool = True,
  ) -> tuple[Features, tuple[jax.Array, jax.Array] | None]:
    """Runs the blocks over rows that are embedded; otherwise like `features`."""
    cfg = self.config
    dtype = jnp.dtype(cfg.dtype)
    x_BxRxD = x_BxRxD.astype(dtype)
    x_BxRxD = nn.with_logical_constraint(x_BxRxD, ('batch', 'length', 'activation'))
    condition = None
    if cfg.conditions:
      told = sigma if cfg.conditioning == 'adaln' else jnp.zeros_like(sigma)
      condition = self.noise_embedding(told).astype(dtype)
    phases = None
    if cfg.positions == 'rotary':
      phases = rotary_phases(positions, cfg.head_dim, cfg.rope_base)
    x_BxRxD, kept = self.blocks(x_BxRxD, cache, condition, phases, mask, num_kept, deterministic)
    return Features(x_BxRxD, condition), kept

  def hidden(self, features: Features) -> jax.Array:
    """Returns [B, W, D], the rows given behind the last norm, as the head sees them."""
    shift_scale = None
    if features.condition is not None and self.config.final_conditioning:
      shift_scale = self.final_modulation(features.condition)
    return modulate(self.final_norm(features.x), shift_scale)

  def project(self, features: Features) -> jax.Array:
    """Returns float32[B, W, V], logits of all rows given."""
    x_BxWxD = self.hidden(features)
    kernel_DxV = self.embedding.T if self.config.tie_embedding else self.head
    kernel_DxV = kernel_DxV[:, : self.config.vocab_size]
    # bounds are computed from these: the product must not be rounded to a narrower dtype
    logits = matmul(x_BxWxD, kernel_DxV, jnp.float32)
    if self.config.biases == 'ddit':
      logits = add_vector(logits, self.head_bias[: self.config.vocab_size])
    return nn.with_logical_constraint(logits, ('batch', 'length', 'activation_vocab'))


class Block(nn.Module):
  """Attention and MLP, each normalised first and added to the stream."""

  config: TransformerConfig

  @nn.compact
  def __call__(
    self,
    x_BxRxD: jax.Array,
    cache: Cache | None,
    condition: jax.Array | None,
    phases: tuple[jax.Array, jax.Array] | None,
    mask: AttentionMask | None,
    num_kept: int,
    deterministic: bool,
  ) -> tuple[jax.Array, tuple[jax.Array, jax.Array] | None]:
    cfg = self.config
    attention_mod = mlp_mod = None
    attention_gate = mlp_gate = 1.0
    if condition is not None:
      has_bias = cfg.biases != 'none'
      modulation = Modulation(6, cfg.model_dim, has_bias, name='modulation')(condition)
      attention_mod, attention_gate = modulation[:2], modulation[2]
      mlp_mod, mlp_gate = modulation[3:5], modulation[5]
    dropout = nn.Dropout(cfg.dropout, deterministic=deterministic)

    linear = functools.partial(Dense, bias=cfg.biases == 'all')
    norm = functools.partial(make_norm, cfg.norm, cfg.dtype, cfg.biases == 'all')

    y = modulate(norm(name='attention_norm')(x_BxRxD), attention_mod)
    heads = (cfg.num_heads, cfg.head_dim)
    kv_heads = (cfg.kv_heads, cfg.head_dim)
    q_BxRxHxE = linear(heads, ('embed', 'heads', 'head_dim'), name='query')(y)
    unseen = 0 if mask is None else mask.num_unseen
    k_BxRxKxE = linear(kv_heads, ('embed', 'heads', 'head_dim'), name='key')(y[:, unseen:])
    v_BxRxKxE = linear(kv_heads, ('embed', 'heads', 'head_dim'), name='value')(y[:, unseen:])
    if phases is not None:
      q_BxRxHxE = rotate(q_BxRxHxE, phases)
      k_BxRxKxE = rotate(k_BxRxKxE, tuple(phase[:, unseen:] for phase in phases))
    cached = None if cache is None else tuple(x.swapaxes(1, 2) for x in (cache.keys, cache.values))
    y = attend(q_BxRxHxE, k_BxRxKxE, v_BxRxKxE, mask, cached, cfg.attention)
    y = y.reshape(x_BxRxD.shape)
    y = linear((cfg.model_dim,), ('heads', 'embed'), name='attention_out')(y)
    x_BxRxD += attention_gate * dropout(y)

    linear = functools.partial(Dense, bias=cfg.biases != 'none')
    y = modulate(norm(name='mlp_norm')(x_BxRxD), mlp_mod)
    hidden = linear((cfg.hidden_dim,), ('embed', 'mlp'), name='mlp_in')(y)
    if cfg.activation == 'swiglu':
      hidden *= nn.silu(linear((cfg.hidden_dim,), ('embed', 'mlp'), name='mlp_gate')(y))
    else:
      hidden = nn.gelu(hidden)
    y = linear((cfg.model_dim,), ('mlp', 'embed'), name='mlp_out')(hidden)
    x_BxRxD += mlp_gate * dropout(y)
    x_BxRxD = nn.with_logical_constraint(x_BxRxD, ('batch', 'length', 'activation'))
    first_kept = k_BxRxKxE.shape[1] - num_kept
    kept = None if cache is None else (k_BxRxKxE[:, first_kept:], v_BxRxKxE[:, first_kept:])
    return x_BxRxD, kept


def _take_rows(x: jax.Array, rows: jax.Array | int | None) -> jax.Array:
  """Some rows of [B, R, D]: int32[W] or int32[B, W], the leading ones, or all."""
  if rows is None or isinstance(rows, int):
    return x[:, :rows]
  return x[:, rows] if rows.ndim == 1 else jnp.take_along_axis(x, rows[..., None], axis=1)
