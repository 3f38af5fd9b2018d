"""Who may attend to whom, as a few integers per row instead of a dense matrix.

A network pass runs over rows; each row shows one token and is of one kind:

  context   a settled token, shown clean; as a query it sees the context that settled no later,
  window    an active token, shown as noise; it sees the whole context and the window,
  dead      a worthless token; it sees nothing and is seen by nobody.

Two rules choose the details. The order in which context sees context:

  causal        tokens that settled earlier, or with it and further left, itself included
  block_causal  tokens that settled no later (a block, a group)
  full          every settled token

and what a window row i sees of window row j: `full` all, `causal` j <= i.

For `block` of width 2 at its second block, context block_causal, window full (rows are queries,
C context, W window, D dead):

             C0 C1 W2 W3 D4 D5
        C0 [ 1  1  .  .  .  . ]
        C1 [ 1  1  .  .  .  . ]
        W2 [ 1  1  1  1  .  . ]
        W3 [ 1  1  1  1  .  . ]
        D4 [ .  .  .  .  .  . ]
        D5 [ .  .  .  .  .  . ]

With context causal, C0 no longer sees C1; with window causal, W2 no longer sees W3.
"""

import flax.struct
import jax
import jax.numpy as jnp
import numpy as np

from ardiff_jax.hyperschedules import Region

CONTEXT_RULES = ('causal', 'block_causal', 'full')
WINDOW_RULES = ('full', 'causal')

_NEVER = np.iinfo(np.int32).max  # rank of a row that is no context key
_EVERYTHING = _NEVER - 1  # reach of a row that sees the whole context


@flax.struct.dataclass
class AttentionMask:
  """Row q may attend to row k iff

    rank[k] <= reach[q]                                  k is context that q may see, or
    in_window[q] and in_window[k] and window_rule(q, k)  both are in the window.

  Attributes:
    rank: int32[..., R], place of a context key in the order of settling.
    reach: int32[..., R], the last rank a query sees; -1 for none.
    in_window: bool[..., R].
    window: name of the window rule, static.
  """

  rank: jax.Array
  reach: jax.Array
  in_window: jax.Array
  window: str = flax.struct.field(pytree_node=False)

  def dense(self, positions: jax.Array) -> jax.Array:
    """Returns bool[..., R, R], query by key, for rows at `positions`, int32[..., R]."""
    context = self.rank[..., None, :] <= self.reach[..., :, None]
    window = self.in_window[..., :, None] & self.in_window[..., None, :]
    if self.window == 'causal':
      positions = jnp.broadcast_to(positions, self.in_window.shape)
      window &= positions[..., None, :] <= positions[..., :, None]
    return context | window


def from_regions(
  regions: jax.Array, settle_step: jax.Array, *, context: str, window: str
) -> AttentionMask:
  """Returns the mask of rows that show one token each.

  Args:
    regions: int8[..., R], the `Region` of each row's token.
    settle_step: int32[R], when each row's token settles; see `Hyperschedule.settle_step`.
    context: one of CONTEXT_RULES.
    window: one of WINDOW_RULES.
  """
  order = jnp.broadcast_to(_settling_order(jnp.asarray(settle_step), context), regions.shape)
  is_context = regions == Region.SETTLED
  in_window = regions == Region.ACTIVE
  return AttentionMask(
    rank=jnp.where(is_context, order, _NEVER),
    reach=jnp.where(is_context, order, jnp.where(in_window, _EVERYTHING, -1)),
    in_window=in_window,
    window=window,
  )


def _settling_order(settle_step: jax.Array, context: str) -> jax.Array:
  """Returns int32[R], so that context i sees context j iff order[j] <= order[i]."""
  match context:
    case 'causal':  # lexicographic in (settle step, position), as ranks
      return jnp.argsort(jnp.argsort(settle_step, stable=True)).astype(jnp.int32)
    case 'block_causal':
      return settle_step.astype(jnp.int32)
    case 'full':
      return jnp.zeros(settle_step.shape, jnp.int32)
  raise ValueError(f'unknown context rule {context!r}; known: {", ".join(CONTEXT_RULES)}')
