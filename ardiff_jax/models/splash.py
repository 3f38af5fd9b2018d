"""Splash attention: JAX's Pallas kernels for TPU, which skip blocks of a mask that are empty.

A kernel is built for one mask, known while compiling. It asks the mask for a block at a time and
keeps the blocks that are neither full nor empty, once each, so that of the [R, R] pairs only a few
distinct blocks are ever made.

Shapes: B batch, R rows, H query heads, K key/value heads, E head width.
"""

import jax
import jax.numpy as jnp
import numpy as np
from flax import linen as nn
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_kernel as kernels
from jax.experimental.pallas.ops.tpu.splash_attention import splash_attention_mask as splash_masks
from jax.sharding import PartitionSpec

from ardiff_jax import masks
from ardiff_jax.masks import AttentionMask, Fixed, Keys, Queries, Sight

_BLOCK, _LANES = 512, 128  # rows the kernel holds at once, and what they are a multiple of


def attend(
  q_BxRxHxE: jax.Array,
  k_BxRxKxE: jax.Array,
  v_BxRxKxE: jax.Array,
  mask: AttentionMask | None,
  interpret: bool,
) -> jax.Array:
  """Returns [B, R, H, E], as `attention.attend` without a cache.

  Args:
    q_BxRxHxE: queries; H is a multiple of K.
    k_BxRxKxE: keys.
    v_BxRxKxE: values.
    mask: one with `fixed`; None for every row to see every row.
    interpret: whether to run the kernels as plain JAX, for devices that are no TPU.
  """
  num_rows = q_BxRxHxE.shape[1]
  block = _BLOCK if num_rows > _BLOCK else -(-num_rows // _LANES) * _LANES
  padding = -num_rows % block
  blocks = _Blocks(
    Fixed(*[(0,) * num_rows] * 4) if mask is None else mask.fixed,
    masks.Sight() if mask is None else mask.sight,
    num_rows + padding,
  )
  sizes = kernels.BlockSizes(**dict.fromkeys(_SIZES, block))
  segment = None if mask is None else mask.segment

  def run(q, k, v, segment):
    """Of one device's examples and heads."""
    kernel = kernels.make_splash_mha(
      splash_masks.MultiHeadMask([blocks] * q.shape[2]),
      block_sizes=sizes,
      head_shards=1,
      q_seq_shards=1,
      interpret=interpret,
    )
    q, k, v = (
      jnp.pad(x, [(0, 0), (0, padding), (0, 0), (0, 0)]).swapaxes(1, 2)
      for x in (q * q.shape[-1] ** -0.5, k, v)
    )
    if segment is None:
      return jax.vmap(kernel)(q, k, v).swapaxes(1, 2)
    segment = jnp.pad(segment, [(0, 0), (0, padding)])
    return jax.vmap(kernel)(q, k, v, kernels.SegmentIds(segment, segment)).swapaxes(1, 2)

  out = _on_each_device(run, q_BxRxHxE, k_BxRxKxE, v_BxRxKxE, segment)[:, :num_rows]
  return jnp.where(blocks.blind[None, :num_rows, None, None], 0.0, out).astype(q_BxRxHxE.dtype)


_SIZES = (
  'block_q',
  'block_kv',
  'block_kv_compute',
  'block_q_dkv',
  'block_kv_dkv',
  'block_kv_dkv_compute',
  'block_q_dq',
  'block_kv_dq',
)


class _Blocks(splash_masks.Mask):
  """`masks.visible` a block at a time. Rows that see nothing, those of the padding too, are shown
  themselves, for a softmax over no key is no number; what they get has to be thrown away."""

  def __init__(self, fixed: Fixed, sight: Sight, num_rows: int):
    padding = num_rows - len(fixed.rank)
    self._vectors = tuple(
      np.pad(np.asarray(x, np.int32), (0, padding), constant_values=of_padding)
      for x, of_padding in zip(fixed, (masks.NEVER, -1, -1, 0), strict=True)
    )
    rank, reach, tile, _ = self._vectors
    self.blind = (tile < 0) & (reach < rank.min())
    self._sight = sight
    self._id = fixed, sight, num_rows

  @property
  def shape(self) -> tuple[int, int]:
    return len(self.blind), len(self.blind)

  def __getitem__(self, block: tuple[slice, slice]) -> np.ndarray:
    index = np.arange(len(self.blind))
    rank, reach, tile, position = self._vectors
    q, k = block
    queries = Queries(reach[q], tile[q], position[q], None)
    keys = Keys(rank[k], np.where(tile < 0, -2, tile)[k], position[k], None)
    itself = (index[q, None] == index[None, k]) & self.blind[q, None]
    return masks.visible(queries, keys, self._sight) | itself

  def __eq__(self, other: object) -> bool:
    return isinstance(other, _Blocks) and self._id == other._id

  def __hash__(self) -> int:
    return hash(self._id)


def _on_each_device(run, q, k, v, segment):
  """Splits examples and heads as the mesh in use does: the compiler cannot split a kernel."""
  mesh = jax.sharding.get_abstract_mesh()
  if mesh.empty:
    return run(q, k, v, segment)
  batch, heads = nn.logical_to_mesh_axes(('batch', 'heads'))

  def split(axes, *sizes):
    parts = np.prod([mesh.shape[x] for x in ((axes,) if isinstance(axes, str) else axes or ())])
    return axes if all(size % parts == 0 for size in sizes) else None

  batch = split(batch, q.shape[0])
  spec = PartitionSpec(batch, None, split(heads, q.shape[2], k.shape[2]))
  specs = (spec, spec, spec, None if segment is None else PartitionSpec(batch))
  return jax.shard_map(run, in_specs=specs, out_specs=spec, check_vma=False)(q, k, v, segment)
