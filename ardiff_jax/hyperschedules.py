"""Hyperschedules: a tensor of noise levels, generation step x position.

`levels[s, i]` is the noise level of position i before generation step s, from T (nothing known)
down to 0 (settled). Row 0 is all T, row S all 0, and no column ever rises. Step s of generation
moves row s to row s+1 (HDLM, arXiv 2504.06416). At step s a position is

  settled    levels[s, i] == 0      done; its token is final,
  worthless  levels[s+1, i] == T    not started after this step; hidden from everything,
  active     otherwise              being denoised, those that start or finish at s included.

Most schedules are a staggered countdown: position i waits `start[i]` steps, then loses one level
a step,

  levels[s, i] = clip(T + start[i] - s, 0, T),

  autoregressive  start = i           T = 1        one token after another
  any_order       start = group[i]    T = 1        one group of positions after another
  shuffled        start = place // w  T = 1        random groups of w
  strided         start = i % ⌈L/w⌉   T = 1        w streams side by side
  flat            start = 0                        all together (SEDD, MDLM)
  block           start = T·(i // w)               one block of w after another (BD3-LM)
  slide           start = ⌊i·T / w⌋                a window of w sliding over the text
  hybrid          start = i % w + (i // w)·(T+w-1) a diagonal inside each block

`ar_diffusion` draws a line turning about an anchor (arXiv 2305.09515); `from_levels` takes any
valid tensor.
"""

import dataclasses
import enum
from collections.abc import Sequence

import jax
import jax.numpy as jnp
import numpy as np

_FINE = 2**20  # levels of a schedule that is drawn as a line


class Region(enum.IntEnum):
  """What a position is at one generation step."""

  SETTLED = 0
  ACTIVE = 1
  WORTHLESS = 2


@dataclasses.dataclass(frozen=True)
class Label:
  """A text that is equal to any other, so that what differs in it alone shares compiled programs.

  Attributes:
    text: what it says.
  """

  text: str = dataclasses.field(compare=False)


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Hyperschedule:
  """A valid tensor of noise levels; a pytree, so it passes through `jax.jit` as an argument.

  Build one with the functions below, which check it; rows are then looked up with concrete or
  traced steps alike.

  Attributes:
    levels: int32[S+1, L] in 0..T.
    num_levels: T; the time of a level is last_time · level / T.
    label: holds the name, which is no part of a program.
    always_active: whether every position is active at every step, so that no row of the network
      ever needs hiding from another.
    left_to_right: whether at every step the settled positions come first, the active next and the
      worthless last.
    window_size: the most positions that are active at one step.
    group_size: the most positions that settle at one step.
    tiling: 'block', 'slide' or 'hybrid', whose windows at some rows tile the sequence; '' for the
      others.
    width: w of those; 0 for the others.
    last_time: that of level T: 1, or less where a draft is noised no further than that.
  """

  levels: np.ndarray | jax.Array
  num_levels: int = dataclasses.field(metadata={'static': True})
  label: Label = dataclasses.field(metadata={'static': True})
  always_active: bool = dataclasses.field(metadata={'static': True})
  left_to_right: bool = dataclasses.field(metadata={'static': True})
  window_size: int = dataclasses.field(metadata={'static': True})
  group_size: int = dataclasses.field(metadata={'static': True})
  tiling: str = dataclasses.field(default='', metadata={'static': True})
  width: int = dataclasses.field(default=0, metadata={'static': True})
  last_time: float | jax.Array = 1.0

  @property
  def name(self) -> str:
    """How it was made, e.g. "block(length=16, width=4, num_levels=8)"."""
    return self.label.text

  @property
  def num_steps(self) -> int:
    """S, the number of generation steps."""
    return self.levels.shape[0] - 1

  @property
  def length(self) -> int:
    """L, the number of positions."""
    return self.levels.shape[1]

  def regions(self, step: int | jax.Array) -> np.ndarray | jax.Array:
    """Returns int8[..., L], the `Region` of each position at `step`, int[...] in 0..S-1.

    Raises:
      IndexError: a concrete step is not in 0..S-1.
    """
    if not isinstance(step, jax.core.Tracer) and not np.all(
      (np.asarray(step) >= 0) & (np.asarray(step) < self.num_steps)
    ):
      raise IndexError(f'step {step} of {self.name} is not in 0..{self.num_steps - 1}')
    levels = jnp.asarray(self.levels) if isinstance(step, jax.core.Tracer) else self.levels
    settled = levels[step] == 0
    worthless = levels[step + 1] == self.num_levels
    xp = jnp if isinstance(settled, jax.Array) else np
    region = xp.where(worthless, Region.WORTHLESS, Region.ACTIVE)
    return xp.where(settled, Region.SETTLED, region).astype(xp.int8)

  def prefix(self, length: int) -> 'Hyperschedule':
    """Returns the schedule of the first `length` positions, up to the row that settles them.

    Raises:
      ValueError: length is not in 1..L.
    """
    if not 1 <= length <= self.length:
      raise ValueError(f'length {length} is not in 1..{self.length}')
    if length == self.length:
      return self
    levels = self.levels[:, :length]
    rows = int((levels > 0).any(axis=1).sum()) + 1
    name = f'{self.name}, first {length} positions'
    return _make(levels[:rows], self.num_levels, name, self.tiling, self.width)

  @property
  def one_at_a_time(self) -> bool:
    """Whether each position is generated in one step of its own."""
    return self.num_levels == 1 and len(np.unique(self.settle_step)) == self.length

  @property
  def settle_step(self) -> np.ndarray | jax.Array:
    """int32[L], the first row at which each position is settled: its place in the order."""
    return (self.levels > 0).sum(axis=0).astype('int32')


def autoregressive(length: int) -> Hyperschedule:
  """Quenched AR: each position is generated in one step, left to right; T = 1, S = L."""
  _check_length(length)
  return _staggered(np.arange(length), 1, f'autoregressive(length={length})')


def flat(length: int, num_levels: int) -> Hyperschedule:
  """All positions descend together (SEDD, MDLM); S = T."""
  _check_length(length)
  name = f'flat(length={length}, num_levels={num_levels})'
  return _staggered(np.zeros(length, int), num_levels, name)


def block(length: int, width: int, num_levels: int) -> Hyperschedule:
  """One block of `width` after another (BD3-LM, semi-autoregressive); S = T·⌈L/w⌉."""
  _check_width(length, width)
  name = f'block(length={length}, width={width}, num_levels={num_levels})'
  return _staggered(num_levels * (np.arange(length) // width), num_levels, name, 'block', width)


def slide(length: int, width: int, num_levels: int) -> Hyperschedule:
  """A window of `width` slides over the text (HDLM's slide annealing); S = T + ⌊(L-1)·T/w⌋."""
  _check_width(length, width)
  name = f'slide(length={length}, width={width}, num_levels={num_levels})'
  return _staggered(np.arange(length) * num_levels // width, num_levels, name, 'slide', width)


def hybrid(length: int, width: int, num_levels: int) -> Hyperschedule:
  """Blocks after one another, a diagonal inside each; S = (T+w-1)·(⌈L/w⌉-1) + T + (L-1) mod w."""
  _check_width(length, width)
  name = f'hybrid(length={length}, width={width}, num_levels={num_levels})'
  block_L, offset_L = np.divmod(np.arange(length), width)
  start_L = offset_L + block_L * (num_levels + width - 1)
  return _staggered(start_L, num_levels, name, 'hybrid', width)


def ar_diffusion(length: int, num_levels: int) -> Hyperschedule:
  """A line of levels turning about an anchor (AR-Diffusion, arXiv 2305.09515); S = L + T."""
  _check_length(length)
  name = f'ar_diffusion(length={length}, num_levels={num_levels})'
  _check_num_levels(name, num_levels)
  left = np.arange(length + num_levels, -1, -1)[:, None]  # steps that remain
  anchor, floor = np.maximum(length - left, 0), np.maximum(left - length, 0)
  slope = (num_levels - floor) / (2 * length - anchor)
  line = slope * (np.arange(length)[None] + 1 - anchor) + floor
  return _make(np.round(np.clip(line, 0, num_levels)), num_levels, name)


def plateau(
  length: int, num_steps: int, start: float = 0.55, stop: float = 0.05, survival: float = 0.9
) -> Hyperschedule:
  """All positions descend together, but stand still in between (ReMDM's loop, arXiv 2503.00307).

  Args:
    length: L.
    num_steps: S, at least 2.
    start: share of the steps that are left when levels come to a halt.
    stop: share that is left when they go on.
    survival: share of the way that is behind them while they stand still.
  """
  _check_length(length)
  if num_steps < 2 or not 0.0 <= stop <= start <= 1.0 or not 0.0 < survival < 1.0:
    raise ValueError(
      'plateau needs num_steps of at least 2, 0 <= stop <= start <= 1 and survival inside (0, 1), '
      f'got {num_steps}, {stop}, {start} and {survival}'
    )
  fall = min(max(round((1.0 - start) * num_steps), 1), num_steps - 1)
  rest = min(max(round(stop * num_steps), 1), num_steps - fall)
  halt = 1.0 - survival
  line = np.concatenate(
    [
      np.linspace(1.0, halt, fall + 1),
      np.full(num_steps - fall - rest, halt),
      np.linspace(halt, 0.0, rest + 1)[1:],
    ]
  )
  levels = np.round(line * _FINE)[:, None].repeat(length, axis=1)
  return _make(levels, _FINE, f'plateau(length={length}, num_steps={num_steps})')


def any_order(groups: Sequence[int]) -> Hyperschedule:
  """Group after group, each in one step: position i in step groups[i]; T = 1, S = G.

  Args:
    groups: int[L], every number of 0..G-1 used.

  Raises:
    ValueError: a group is missing.
  """
  groups_L = np.asarray(groups)
  if groups_L.ndim != 1 or not groups_L.size or not np.issubdtype(groups_L.dtype, np.integer):
    raise ValueError(f'groups must be a list of integers, got {groups!r}')
  missing = sorted(set(range(int(groups_L.max()) + 1)) - set(groups_L.tolist()))
  if missing or groups_L.min() < 0:
    raise ValueError(f'groups must use every number from 0 to the largest; {missing} are missing')
  return _staggered(groups_L, 1, f'any_order(length={len(groups_L)}, groups={groups_L.max() + 1})')


def shuffled(length: int, width: int, seed: int) -> Hyperschedule:
  """Random groups of `width` positions, one after another; T = 1, S = ⌈L/w⌉."""
  _check_width(length, width)
  place_L = np.random.default_rng(seed).permutation(length)
  name = f'shuffled(length={length}, width={width}, seed={seed})'
  return _staggered(place_L // width, 1, name)


def strided(length: int, width: int) -> Hyperschedule:
  """`width` streams side by side, each from left to right; T = 1, S = ⌈L/w⌉ (ARMD, arXiv
  2601.16971)."""
  _check_width(length, width)
  name = f'strided(length={length}, width={width})'
  return _staggered(np.arange(length) % -(-length // width), 1, name)


def from_levels(levels: np.ndarray, num_levels: int) -> Hyperschedule:
  """Returns the user's own tensor as a hyperschedule.

  Args:
    levels: int[S+1, L] in 0..T: first row all T, last row all 0, no column rising.
    num_levels: T.

  Raises:
    ValueError: a rule is broken, with the row and column that break it.
  """
  levels = np.asarray(levels)
  if levels.ndim != 2 or levels.shape[0] < 2 or not levels.shape[1]:
    raise ValueError(f'levels must be of shape [S+1, L] with S, L >= 1, got {levels.shape}')
  if not np.issubdtype(levels.dtype, np.integer):
    raise ValueError(f'levels must be integers, got {levels.dtype}')
  name = f'from_levels(length={levels.shape[1]}, num_levels={num_levels})'
  _check_num_levels(name, num_levels)
  for what, wrong in (
    (f'must be from 0 to {num_levels}', (levels < 0) | (levels > num_levels)),
    (f'must be {num_levels} in the first row', _in_row(levels != num_levels, 0)),
    ('must be 0 in the last row', _in_row(levels != 0, -1)),
    ('must not rise down a column', np.diff(levels, axis=0, prepend=levels[:1]) > 0),
  ):
    if wrong.any():
      row, column = (int(x[0]) for x in np.nonzero(wrong))
      raise ValueError(f'levels {what}; row {row}, column {column} is {levels[row, column]}')
  return _make(levels, num_levels, name)


# Those a config can name: their parameters are numbers.
_NAMED = autoregressive, flat, block, slide, hybrid, ar_diffusion, shuffled, strided
BY_NAME = {f.__name__: f for f in _NAMED}


def _staggered(
  start: np.ndarray, num_levels: int, name: str, tiling: str = '', width: int = 0
) -> Hyperschedule:
  """Builds clip(T + start[i] - s, 0, T), as long as the last position needs."""
  _check_num_levels(name, num_levels)
  steps = np.arange(num_levels + start.max() + 1)
  levels = np.clip(num_levels + start[None] - steps[:, None], 0, num_levels)
  return _make(levels, num_levels, name, tiling, width)


def _make(
  levels: np.ndarray, num_levels: int, name: str, tiling: str = '', width: int = 0
) -> Hyperschedule:
  levels = levels.astype(np.int32)
  levels.setflags(write=False)
  settled, worthless = levels[:-1] == 0, levels[1:] == num_levels
  order = np.where(settled, 0, np.where(worthless, 2, 1))
  return Hyperschedule(
    levels,
    num_levels,
    Label(name),
    always_active=bool((order == 1).all()),
    left_to_right=bool((np.diff(order, axis=1) >= 0).all()),
    window_size=int((order == 1).sum(axis=1).max()),
    group_size=int(((levels[1:] == 0) & ~settled).sum(axis=1).max()),
    tiling=tiling,
    width=width,
  )


def _in_row(wrong: np.ndarray, row: int) -> np.ndarray:
  """Keeps one row of a bool[S+1, L]."""
  kept = np.zeros_like(wrong)
  kept[row] = wrong[row]
  return kept


def _check_num_levels(name: str, num_levels: int) -> None:
  if num_levels < 1:
    raise ValueError(f'{name}: num_levels must be at least 1')


def _check_length(length: int) -> None:
  if length < 1:
    raise ValueError(f'length must be at least 1, got {length}')


def _check_width(length: int, width: int) -> None:
  _check_length(length)
  if not 1 <= width <= length:
    raise ValueError(f'width must be from 1 to the length {length}, got {width}')
