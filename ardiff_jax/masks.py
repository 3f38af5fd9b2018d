"""Who may attend to whom, as a few integers per row instead of a dense matrix.

A network pass runs over rows; each row shows one token and is of one kind:

  context   a settled token, shown clean; as a query it sees the context that settled no later,
  window    an active token, shown as noise; it sees the context of its tile and that tile,
  dead      a worthless token; it sees nothing and is seen by nobody.

Three rules choose the details. The order in which context sees context (`context`):

  causal        tokens that settled earlier, or with it and further left, itself included
  block_causal  tokens that settled no later (a block, a group)
  full          every settled token; what was computed for one changes with the next

and what a window row i sees of row j of its tile (`window`):

  full          everything
  causal        j <= i
  causal_next   j <= i + 1, where a row predicts the next token: it sees that token's present state
  none          nothing: it sees the context alone, and does not see itself (A3, arXiv 2601.13228)

Of packed documents, rows see only those of the same `segment`, and with a `context_length` only
the context that begins that many positions before their own.

One pass over a canvas, `block` of width 2 at its second block, context block_causal, window full
(rows are queries, C context, W window, D dead):

             C0 C1 W2 W3 D4 D5
        C0 [ 1  1  .  .  .  . ]
        C1 [ 1  1  .  .  .  . ]
        W2 [ 1  1  1  1  .  . ]
        W3 [ 1  1  1  1  .  . ]
        D4 [ .  .  .  .  .  . ]
        D5 [ .  .  .  .  .  . ]

With context causal, C0 no longer sees C1; with window causal, W2 no longer sees W3.

The doubled pass of training shows every position twice, clean as context and noisy in the window
of its own tile (BD3-LM, arXiv 2503.09573, §3.2), so that one pass trains every block. Context
causal, window causal:

             W0 W1 W2 W3 C0 C1 C2 C3
        W0 [ 1  .  .  .  .  .  .  . ]
        W1 [ 1  1  .  .  .  .  .  . ]
        W2 [ .  .  1  .  1  1  .  . ]
        W3 [ .  .  1  1  1  1  .  . ]
        C0 [ .  .  .  .  1  .  .  . ]
        C1 [ .  .  .  .  1  1  .  . ]
        C2 [ .  .  .  .  1  1  1  . ]
        C3 [ .  .  .  .  1  1  1  1 ]
"""

import functools
import operator
from typing import NamedTuple

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ardiff_jax.hyperschedules import Region

CONTEXT_RULES = ('causal', 'block_causal', 'full')
WINDOW_RULES = ('full', 'causal', 'causal_next', 'none')

NEVER = np.iinfo(np.int32).max  # rank of a row that is no context key
EVERYTHING = NEVER - 1  # reach of a row that sees the whole context


class Queries(NamedTuple):
  """What decides which keys a row sees; int32[..., Q] each, see `AttentionMask`."""

  reach: jax.Array
  tile: jax.Array
  position: jax.Array
  segment: jax.Array | None


class Keys(NamedTuple):
  """What decides which queries see a row; int32[..., K] each, see `AttentionMask`. The rank is None
  if all are in windows, the tile if all are context."""

  rank: jax.Array | None
  tile: jax.Array | None
  position: jax.Array
  segment: jax.Array | None


class Sight(NamedTuple):
  """What rows see by rule; static.

  Attributes:
    window: name of the window rule.
    context_length: how many positions back a row sees context, its own included; None for all.
  """

  window: str = 'full'
  context_length: int | None = None


class Anneal(NamedTuple):
  """A window between causal and full: a row sees what is to its left and itself, and each other
  row of its tile with the same chance (DiffuGPT, arXiv 2410.17891). Which ones is a hash of both
  positions and the seed: the same for all examples, heads and layers, and never stored.

  Attributes:
    share: float32[], the chance.
    seed: int32[].
  """

  share: jax.Array
  seed: jax.Array

  def visible(self, query: jax.Array, key: jax.Array) -> jax.Array:
    """Returns bool[..., Q, K] of positions int32[..., Q, 1] and int32[..., 1, K]."""
    words = [jnp.asarray(x).astype(jnp.uint32) for x in (query, key, self.seed)]
    mixed = words[0] * jnp.uint32(0x9E3779B1) ^ words[1] * jnp.uint32(0x85EBCA77)
    mixed = mixed ^ (words[2] * jnp.uint32(0xC2B2AE3D) + jnp.uint32(0x27D4EB2F))
    for shift, factor in ((16, 0x85EBCA6B), (13, 0xC2B2AE35)):  # the finaliser of MurmurHash3
      mixed = (mixed ^ (mixed >> shift)) * jnp.uint32(factor)
    uniform = (mixed ^ (mixed >> 16)).astype(jnp.float32) * 2.0**-32
    return (key <= query) | (uniform < self.share)


class Fixed(NamedTuple):
  """The vectors of a mask that is the same for every example and known while tracing; hashable,
  R integers each, see `AttentionMask`."""

  rank: tuple[int, ...]
  reach: tuple[int, ...]
  tile: tuple[int, ...]
  position: tuple[int, ...]


@flax.struct.dataclass
class AttentionMask:
  """Row q may attend to key k iff

    rank[k] <= reach[q], position[k] not too far back  k is context that q may see, or
    tile[q] = tile[k] >= 0 and window_rule(q, k)       both are in one window,

  and their segments, if any, are the same. Keys are the cached tokens, if any, then the rows.

  Attributes:
    rank: int32[..., R], place of a context key in the order of settling; NEVER for other rows.
    reach: int32[..., R], the last rank a query sees; -1 for none.
    tile: int32[..., R], the window a row is in; -1 for none.
    position: int32[..., R].
    segment: int32[..., R], the document a row is in; None if there is but one.
    cached: the keys in the cache; None without one.
    sight: the window rule and how far back context is seen, static.
    span: rows are sorted by position, `num_window` of the window and then the context from
      position 0 on, and no row sees a key this many positions to its right, nor one of its tile
      this many rows away; None if nothing is promised. Static.
    num_window: static; unused without span.
    num_unseen: how many of the leading rows are no keys; static.
    anneal: instead of window rule full, one between it and causal; None for the rule.
    fixed: the vectors but for segments, where they are known while tracing (`fix`), for kernels
      that are compiled for one mask; else None. Static.
  """

  rank: jax.Array
  reach: jax.Array
  tile: jax.Array
  position: jax.Array
  segment: jax.Array | None
  cached: Keys | None = None
  sight: Sight = flax.struct.field(pytree_node=False, default=Sight())
  span: int | None = flax.struct.field(pytree_node=False, default=None)
  num_window: int = flax.struct.field(pytree_node=False, default=0)
  num_unseen: int = flax.struct.field(pytree_node=False, default=0)
  anneal: Anneal | None = None
  fixed: Fixed | None = flax.struct.field(pytree_node=False, default=None)

  @property
  def queries(self) -> Queries:
    return Queries(self.reach, self.tile, self.position, self.segment)

  @property
  def keys(self) -> Keys:
    """Those of the rows alone, of which the leading `num_unseen` are none."""
    keys = Keys(self.rank, jnp.where(self.tile < 0, -2, self.tile), self.position, self.segment)
    return jax.tree.map(lambda x: x[..., self.num_unseen :], keys)

  def dense(self) -> jax.Array:
    """Returns bool[..., R, C+R], query by key, the cached keys first."""
    parts = [self.keys] if self.cached is None else [self.cached, self.keys]
    see = [visible(self.queries, keys, self.sight, self.anneal) for keys in parts]
    return jnp.concatenate(see, axis=-1)


def visible(queries: Queries, keys: Keys, sight: Sight, anneal: Anneal | None = None) -> jax.Array:
  """Returns bool[..., Q, K], whether each query may attend to each key."""
  q = Queries(*(None if x is None else x[..., :, None] for x in queries))
  k = Keys(*(None if x is None else x[..., None, :] for x in keys))
  ways = []
  if k.rank is not None:
    context = k.rank <= q.reach
    if sight.context_length is not None:
      context &= k.position > q.position - sight.context_length
    ways.append(context)
  if k.tile is not None:
    together = k.tile == q.tile
    if anneal is not None:
      together &= anneal.visible(q.position, k.position)
    elif sight.window != 'full':
      together &= k.position <= q.position + (sight.window == 'causal_next')
    ways.append(together)
  allowed = functools.reduce(operator.or_, ways)  # of jax and numpy alike
  return allowed if q.segment is None else allowed & (k.segment == q.segment)


def fix(mask: AttentionMask) -> AttentionMask:
  """Returns the mask with `fixed` set, if its vectors are no tracers and those of all examples are
  the same; else as it is. Where all rows are context, in the order they settled, `span` too."""
  vectors = mask.rank, mask.reach, mask.tile, mask.position
  if mask.anneal is not None or any(isinstance(x, jax.core.Tracer) for x in vectors):
    return mask
  vectors = [np.asarray(x) for x in vectors]
  if any((x != x[:1]).any() for x in vectors):
    return mask
  rank, reach, tile, _ = (x[0] for x in vectors)
  index = np.arange(len(rank))
  if (rank == index).all() and (tile < 0).all():
    mask = mask.replace(span=int((np.minimum(reach, index[-1]) - index).max()) + 1, num_window=0)
  return mask.replace(fixed=Fixed(*(tuple(x[0].tolist()) for x in vectors)))


def settling_rank(settle_step: jax.Array) -> jax.Array:
  """Returns int32[..., L], each position's place in the order of settling, ties from left to right.

  Args:
    settle_step: int32[..., L], see `Hyperschedule.settle_step`.
  """
  return jnp.argsort(jnp.argsort(settle_step, stable=True, axis=-1), axis=-1).astype(jnp.int32)


def context_reach(settle_step: jax.Array, context: str) -> jax.Array:
  """Returns int32[..., L], the last `settling_rank` that each position sees once it is context.

  Raises:
    ValueError: an unknown rule.
  """
  match context:
    case 'causal':
      return settling_rank(settle_step)
    case 'block_causal':
      return num_settled_by(settle_step, settle_step) - 1
    case 'full':
      return jnp.full(settle_step.shape, EVERYTHING, jnp.int32)
  raise ValueError(f'unknown context rule {context!r}; known: {", ".join(CONTEXT_RULES)}')


def num_settled_by(settle_step: jax.Array, step: jax.Array) -> jax.Array:
  """Returns int32[..., N], how many of int32[..., L] positions have settled at int32[..., N] steps,
  those that settle with the step included."""
  count = jnp.vectorize(
    lambda settled, step: jnp.searchsorted(jnp.sort(settled), step, side='right'),
    signature='(l),(n)->(n)',
  )
  return count(settle_step, step).astype(jnp.int32)


def from_regions(
  regions: jax.Array,
  settle_step: jax.Array,
  *,
  context: str,
  sight: Sight,
  segments: tuple[jax.Array, jax.Array] | None = None,
) -> AttentionMask:
  """Returns the mask of rows that show one position each, in one row of the hyperschedule.

  Args:
    regions: int8[..., R], the `Region` of each row's token.
    settle_step: int32[R] or int32[..., R], when each row's token settles.
    context: one of CONTEXT_RULES.
    sight: the rest of what rows see.
    segments: int32[..., R] of context rows and int32[...] of the window; None for one document.
  """
  settle_step, shape = jnp.asarray(settle_step), regions.shape
  is_context, in_window = regions == Region.SETTLED, regions == Region.ACTIVE
  rank = jnp.broadcast_to(settling_rank(settle_step), shape)
  reach = jnp.broadcast_to(context_reach(settle_step, context), shape)
  segment = None
  if segments is not None:
    segment = jnp.where(is_context, segments[0], segments[1][..., None])
  return AttentionMask(
    rank=jnp.where(is_context, rank, NEVER),
    reach=jnp.where(is_context, reach, jnp.where(in_window, EVERYTHING, -1)),
    tile=jnp.where(in_window & (sight.window != 'none'), 0, -1),
    position=jnp.broadcast_to(jnp.arange(shape[-1]), shape),
    segment=segment,
    sight=sight,
  )
