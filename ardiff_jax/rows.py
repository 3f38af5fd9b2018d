"""Which row of the hyperschedule each position of a training example is shown at.

  one_row   the whole example at one row, drawn from all S,
  tiled     every position at a row at which it is active: rows whose windows do not overlap tile
            the sequence, so one pass over clean and noisy tokens trains all of it.

With T levels and blocks of w, the rows that `tiled` draws are

  block    s = b·T + U{0..T-1}          for each block b
  hybrid   s = b·(T+w-1) + U{0..T+w-2}  for each block b; positions inactive at s are not trained
  slide    s = s0, s0 + T, s0 + 2T, ... for one s0 ~ U{0..T-1}

Every position's row is uniform over as many rows as `num_rows` says, so a sum over rows is
estimated by num_rows times one term. The rows of a sequence's blocks may depend on each other, as
their terms do not: they are spread by golden-ratio steps.

Shapes: B batch, L length.
"""

from typing import NamedTuple

import jax
import jax.numpy as jnp
import numpy as np

from ardiff_jax.hyperschedules import Hyperschedule

_GOLDEN = 0.6180339887498949


class Rows(NamedTuple):
  """Rows of a hyperschedule, one a position.

  Attributes:
    step: int32[B, L] in 0..S-1.
    within: float32[B, L] in [0, 1), how far time has moved from this row to the next.
    level: int32[B, L], at this row.
    drop: int32[B, L], by how much it falls to the next.
    num_rows: float32[B, L], how many rows `step` was drawn from.
    tile: int32[B, L], which of the windows shown a position is active in; -1 for none.
    num_settled: int32[B, L], positions settled at this row.
  """

  step: jax.Array
  within: jax.Array
  level: jax.Array
  drop: jax.Array
  num_rows: jax.Array
  tile: jax.Array
  num_settled: jax.Array

  @classmethod
  def of(cls, hyperschedule: Hyperschedule, step, within, num_rows, tile) -> 'Rows':
    """Looks the rows up; all arguments broadcast to [B, L]."""
    levels = jnp.asarray(hyperschedule.levels)  # a traced row cannot index a numpy array
    shape = np.broadcast_shapes(jnp.shape(step), (1, hyperschedule.length))
    step, within, num_rows, tile = (
      jnp.broadcast_to(x, shape) for x in (step, within, num_rows, tile)
    )
    position = jnp.broadcast_to(jnp.arange(hyperschedule.length), shape)
    level, after = levels[step, position], levels[step + 1, position]
    active = (level > 0) & (after < hyperschedule.num_levels)
    return cls(
      step,
      within,
      level,
      level - after,
      jnp.asarray(num_rows, jnp.float32),
      jnp.where(active, tile, -1),
      (levels == 0).sum(axis=1, dtype=jnp.int32)[step],
    )


class Tiles(NamedTuple):
  """Windows that one pass over clean and noisy tokens shows together.

  Attributes:
    tile: int32[B, L], the window a position is in, of neighbours only; -1 for none, and then its
      prediction means nothing. A numpy array [L] if it does not depend on what is drawn; so too
      the next two, and then kernels can be compiled for it.
    num_settled: int32[B, L], positions settled at the row of the hyperschedule its window is of.
    settle_step: int32[L], order in which positions settle.
    num_tiles: the most windows of an example.
    num_context: how many leading positions some window sees settled.
    span: the most positions of a window or of a group that settles together; None: any.
  """

  tile: np.ndarray | jax.Array
  num_settled: np.ndarray | jax.Array
  settle_step: np.ndarray | jax.Array
  num_tiles: int
  num_context: int
  span: int | None


def one_row(hyperschedule: Hyperschedule, uniform: jax.Array) -> Rows:
  """Returns one row for each example.

  Args:
    hyperschedule: S rows over L positions.
    uniform: float32[B] in [0, 1).
  """
  step_B, within_B = split_row(uniform, hyperschedule.num_steps)
  return Rows.of(hyperschedule, step_B[:, None], within_B[:, None], hyperschedule.num_steps, 0)


def tiled(hyperschedule: Hyperschedule, uniform: jax.Array) -> Rows:
  """Returns a row for each window of a tiling; arguments as in `one_row`.

  Raises:
    ValueError: the schedule is none of block, slide, hybrid.
  """
  check_tiling(hyperschedule)
  total, width = hyperschedule.num_levels, hyperschedule.width
  position_L = np.arange(hyperschedule.length)
  if hyperschedule.tiling == 'slide':
    first_B, within_B = split_row(uniform, total)
    start_L = position_L * total // width
    tile_BxL = -((first_B[:, None] - start_L[None]) // total)  # ⌈(start - first)/T⌉
    step_BxL = first_B[:, None] + tile_BxL * total
    return Rows.of(hyperschedule, step_BxL, within_B[:, None], total, tile_BxL)
  block_L = position_L // width
  count_L = np.full(hyperschedule.length, total)
  if hyperschedule.tiling == 'hybrid':
    count_L += np.minimum(width, hyperschedule.length - block_L * width) - 1
  uniform_BxL = (uniform[:, None] + jnp.asarray(block_L * _GOLDEN % 1.0, jnp.float32)[None]) % 1.0
  row_BxL, within_BxL = split_row(uniform_BxL, jnp.asarray(count_L)[None])
  step_BxL = (block_L * count_L[0])[None] + row_BxL
  return Rows.of(hyperschedule, step_BxL, within_BxL, count_L[None], block_L[None])


def tiles(hyperschedule: Hyperschedule, drawn: Rows) -> Tiles:
  """Returns the windows of rows that `tiled` drew; those of `block` are always the same."""
  length, width = hyperschedule.length, hyperschedule.width
  num_blocks = -(-length // width)
  if hyperschedule.tiling == 'block':
    block_L = np.arange(length) // width
    return Tiles(
      tile=block_L,
      num_settled=block_L * width,
      settle_step=block_L + 1,  # the order is all that matters, and that BOS is first, at 0
      num_tiles=num_blocks,
      num_context=(num_blocks - 1) * width,
      span=width,
    )
  return Tiles(
    tile=drawn.tile,
    num_settled=drawn.num_settled,
    settle_step=hyperschedule.settle_step,
    num_tiles=num_blocks + (hyperschedule.tiling == 'slide'),
    num_context=length - 1,  # a window may begin inside a block
    span=width,
  )


def check_tiling(hyperschedule: Hyperschedule) -> None:
  """Raises ValueError for a schedule whose windows cannot tile a sequence."""
  if not hyperschedule.tiling:
    raise ValueError(
      f'doubled training needs hyperschedule block, slide or hybrid, got {hyperschedule.name}'
    )


def split_row(uniform: jax.Array, num_rows: int | jax.Array) -> tuple[jax.Array, jax.Array]:
  """Splits float32[...] in [0, 1) into a row, int32[...] in 0..num_rows-1, and the rest of it."""
  scaled = uniform * num_rows
  row = jnp.minimum(scaled.astype(jnp.int32), num_rows - 1)
  return row, jnp.clip(scaled - row, 0.0, 1.0 - 2.0**-24)
