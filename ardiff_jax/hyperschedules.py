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
  flat            start = 0                        all together (SEDD, MDLM)
  block           start = T·(i // w)               one block of w after another (BD3-LM)
  slide           start = ⌊i·T / w⌋                a window of w sliding over the text
"""

import dataclasses
import enum

import jax
import jax.numpy as jnp
import numpy as np


class Region(enum.IntEnum):
  """What a position is at one generation step."""

  SETTLED = 0
  ACTIVE = 1
  WORTHLESS = 2


@jax.tree_util.register_dataclass
@dataclasses.dataclass(frozen=True, eq=False)
class Hyperschedule:
  """A valid tensor of noise levels; a pytree, so it passes through `jax.jit` as an argument.

  Build one with the functions below, which check it; rows are then looked up with concrete or
  traced steps alike.

  Attributes:
    levels: int32[S+1, L] in 0..T.
    num_levels: T; the time of a level is level / T.
    name: how it was made, e.g. "block(length=16, width=4, num_levels=8)".
    always_active: whether every position is active at every step, so that no row of the network
      ever needs hiding from another.
  """

  levels: np.ndarray | jax.Array
  num_levels: int = dataclasses.field(metadata={'static': True})
  name: str = dataclasses.field(metadata={'static': True})
  always_active: bool = dataclasses.field(metadata={'static': True})

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
    return dataclasses.replace(
      self, levels=levels[:rows], name=f'{self.name}, first {length} positions'
    )

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
  return _staggered(num_levels * (np.arange(length) // width), num_levels, name)


def slide(length: int, width: int, num_levels: int) -> Hyperschedule:
  """A window of `width` slides over the text (HDLM's slide annealing); S = T + ⌊(L-1)·T/w⌋."""
  _check_width(length, width)
  name = f'slide(length={length}, width={width}, num_levels={num_levels})'
  return _staggered(np.arange(length) * num_levels // width, num_levels, name)


BY_NAME = {f.__name__: f for f in (autoregressive, flat, block, slide)}


def _staggered(start: np.ndarray, num_levels: int, name: str) -> Hyperschedule:
  """Builds clip(T + start[i] - s, 0, T), as long as the last position needs."""
  if num_levels < 1:
    raise ValueError(f'{name}: num_levels must be at least 1')
  steps = np.arange(num_levels + start.max() + 1)
  levels = np.clip(num_levels + start[None, :] - steps[:, None], 0, num_levels).astype(np.int32)
  levels.setflags(write=False)
  return Hyperschedule(levels, num_levels, name, always_active=not start.any())


def _check_length(length: int) -> None:
  if length < 1:
    raise ValueError(f'length must be at least 1, got {length}')


def _check_width(length: int, width: int) -> None:
  _check_length(length)
  if not 1 <= width <= length:
    raise ValueError(f'width must be from 1 to the length {length}, got {width}')
