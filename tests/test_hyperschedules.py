"""Hyperschedules against the closed forms of their table, entry by entry."""

import dataclasses
import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ardiff_jax import hyperschedules
from ardiff_jax.hyperschedules import (
  Region,
  any_order,
  ar_diffusion,
  autoregressive,
  block,
  flat,
  from_levels,
  hybrid,
  slide,
)


def clip(x, low, high):
  return max(low, min(high, x))


def case(schedule, entry, num_levels, num_steps):
  return pytest.param(schedule, entry, num_levels, num_steps, id=schedule.name)


def block_case(length, width, levels):
  return case(
    block(length, width, levels),
    lambda s, i: clip(levels * (1 + i // width) - s, 0, levels),
    levels,
    levels * math.ceil(length / width),
  )


def slide_case(length, width, levels):
  return case(
    slide(length, width, levels),
    lambda s, i: clip(levels + (i * levels) // width - s, 0, levels),
    levels,
    levels + ((length - 1) * levels) // width,
  )


def hybrid_case(length, width, levels):
  def entry(s, i):
    b, j = divmod(i, width)
    return clip(levels + j - (s - b * (levels + width - 1)), 0, levels)

  steps = (levels + width - 1) * (math.ceil(length / width) - 1) + levels + (length - 1) % width
  return case(hybrid(length, width, levels), entry, levels, steps)


def ar_diffusion_case(length, levels):
  def entry(s, i):
    turn = length + levels - s
    a, b = max(length - turn, 0), max(turn - length, 0)
    line = (levels - b) / (2 * length - a) * (i + 1 - a) + b
    return round(clip(line, 0, levels))

  return case(ar_diffusion(length, levels), entry, levels, length + levels)


def any_order_case(groups):
  return case(any_order(groups), lambda s, i: int(groups[i] >= s), 1, max(groups) + 1)


# Windows of these need not be contiguous, and in some rows nothing may be active.
SCATTERED = [
  *(any_order_case(g) for g in ([2, 0, 1], [0, 2, 0, 1, 1, 2], [0, 0, 0], [0])),
  *(ar_diffusion_case(*x) for x in ((1, 1), (5, 3), (4, 8), (3, 16), (7, 1))),
]

CASES = [
  *(case(autoregressive(n), lambda s, i: int(i >= s), 1, n) for n in (1, 6)),
  *(case(flat(n, t), lambda s, i, t=t: t - s, t, t) for n, t in ((1, 1), (5, 3), (4, 8))),
  *(block_case(*x) for x in ((6, 2, 3), (7, 3, 2), (5, 5, 4), (5, 1, 3), (4, 3, 1))),
  *(slide_case(*x) for x in ((6, 3, 3), (7, 3, 2), (7, 2, 5), (5, 5, 4), (5, 1, 3), (6, 4, 1))),
  *(hybrid_case(*x) for x in ((6, 3, 3), (7, 3, 2), (7, 2, 5), (5, 5, 4), (5, 1, 3), (6, 4, 1))),
]
SCHEDULES = [pytest.param(c.values[0], id=c.id) for c in CASES]
EVERY = [*SCHEDULES, *(pytest.param(c.values[0], id=c.id) for c in SCATTERED)]


@pytest.mark.parametrize('schedule, entry, num_levels, num_steps', [*CASES, *SCATTERED])
def test_levels_are_the_closed_form(schedule, entry, num_levels, num_steps):
  assert schedule.num_steps == num_steps
  assert schedule.num_levels == num_levels
  expected = [[entry(s, i) for i in range(schedule.length)] for s in range(num_steps + 1)]
  np.testing.assert_array_equal(schedule.levels, expected)
  assert schedule.levels.dtype == np.int32


@pytest.mark.parametrize('schedule', EVERY)
def test_levels_descend_from_all_noise_to_none(schedule):
  levels = schedule.levels
  assert (levels[0] == schedule.num_levels).all()
  assert (levels[-1] == 0).all()
  assert (np.diff(levels, axis=0) <= 0).all()
  if not schedule.name.startswith('ar_diffusion'):  # whose line may round to 0 early
    assert (levels[-2] > 0).any()  # no step is idle at the end


@pytest.mark.parametrize(
  'ours, theirs',
  [
    (slide(7, 1, 1), autoregressive(7)),
    (block(7, 1, 1), autoregressive(7)),
    (block(7, 7, 4), flat(7, 4)),
    (slide(7, 1, 4), block(7, 1, 4)),
    (hybrid(7, 1, 4), block(7, 1, 4)),
    (hybrid(7, 1, 1), autoregressive(7)),
    (any_order(np.arange(7)), autoregressive(7)),
    (any_order(np.arange(7) // 3), block(7, 3, 1)),
    (any_order(np.zeros(7, int)), flat(7, 1)),
  ],
  ids=lambda schedule: schedule.name,
)
def test_identities(ours, theirs):
  np.testing.assert_array_equal(ours.levels, theirs.levels)
  assert ours.num_levels == theirs.num_levels
  assert ours.always_active == theirs.always_active


@pytest.mark.parametrize('schedule', SCHEDULES)
def test_regions_match_their_definition(schedule):
  for step in range(schedule.num_steps):
    regions = schedule.regions(step)
    assert regions.dtype == np.int8 and regions.shape == (schedule.length,)
    for i in range(schedule.length):
      settled = schedule.levels[step, i] == 0
      worthless = schedule.levels[step + 1, i] == schedule.num_levels
      assert not (settled and worthless)
      expected = 0 if settled else 2 if worthless else 1
      assert regions[i] == expected, (step, i)
    active = np.flatnonzero(regions == Region.ACTIVE)
    assert len(active) > 0 and (np.diff(active) == 1).all()  # one contiguous window
    assert (regions[: active[0]] == Region.SETTLED).all()
    assert (regions[active[-1] + 1 :] == Region.WORTHLESS).all()


def test_window_of_a_known_schedule():
  """A slide of width 3 starts and finishes one token a step; its window never exceeds 3."""
  regions = np.stack([slide(5, 3, 3).regions(s) for s in range(7)])
  S, A, W = Region
  np.testing.assert_array_equal(
    regions,
    [
      [A, W, W, W, W],
      [A, A, W, W, W],
      [A, A, A, W, W],
      [S, A, A, A, W],
      [S, S, A, A, A],
      [S, S, S, A, A],
      [S, S, S, S, A],
    ],
  )


@pytest.mark.parametrize('schedule', EVERY)
def test_sizes_are_those_of_the_busiest_step(schedule):
  steps = range(schedule.num_steps)
  active = [(schedule.regions(s) == Region.ACTIVE).sum() for s in steps]
  settling = [(schedule.settle_step == s + 1).sum() for s in steps]
  assert (schedule.window_size, schedule.group_size) == (max(active), max(settling))


@pytest.mark.parametrize('schedule', EVERY)
def test_left_to_right_is_settled_then_active_then_worthless(schedule):
  place = {Region.SETTLED: 0, Region.ACTIVE: 1, Region.WORTHLESS: 2}
  order = [[place[r] for r in schedule.regions(s)] for s in range(schedule.num_steps)]
  assert schedule.left_to_right == all(row == sorted(row) for row in order)


@pytest.mark.parametrize('length, width, num_levels', [(6, 3, 3), (7, 3, 3), (8, 4, 4)])
def test_window_is_as_wide_as_the_block(length, width, num_levels):
  for make in (block, slide, hybrid):
    schedule = make(length, width, num_levels)
    assert schedule.window_size == schedule.width == width
    assert schedule.left_to_right and schedule.tiling == make.__name__


@pytest.mark.parametrize('schedule', EVERY)
def test_from_levels_takes_what_a_schedule_gives(schedule):
  own = from_levels(schedule.levels, schedule.num_levels)
  np.testing.assert_array_equal(own.levels, schedule.levels)
  assert own.levels.dtype == np.int32
  assert own.num_levels == schedule.num_levels and own.always_active == schedule.always_active


def test_from_levels_takes_rows_in_which_nothing_moves_and_copies():
  levels = np.array([[2, 2], [2, 1], [2, 1], [0, 1], [0, 0]], np.int64)
  schedule = from_levels(levels, 2)
  assert (schedule.window_size, schedule.group_size) == (2, 1)
  levels[0, 0] = 1
  assert schedule.levels[0, 0] == 2


VALID = np.array([[2, 2, 2], [2, 1, 2], [1, 1, 2], [0, 0, 1], [0, 0, 0]])


@pytest.mark.parametrize(
  'row, column, value, rule',
  [
    (0, 1, 1, 'must be 2 in the first row'),
    (4, 2, 1, 'must be 0 in the last row'),
    (3, 0, 2, 'must not rise'),  # after 1 in the row above
    (2, 1, 2, 'must not rise'),
    (1, 0, 3, 'must be from 0 to 2'),
    (2, 2, -1, 'must be from 0 to 2'),
  ],
)
def test_from_levels_names_what_breaks_a_rule(row, column, value, rule):
  from_levels(VALID, 2)
  levels = VALID.copy()
  levels[row, column] = value
  with pytest.raises(ValueError, match=f'{rule}.*; row {row}, column {column} is {value}$'):
    from_levels(levels, 2)


@pytest.mark.parametrize(
  'levels, num_levels, word',
  [
    (np.zeros(3, int), 1, r'shape \[S\+1, L\].*\(3,\)'),
    (np.zeros((1, 3), int), 1, 'shape'),
    (np.zeros((2, 0), int), 1, 'shape'),
    (np.array([[1.0], [0.0]]), 1, 'integers, got float64'),
    (np.array([[0], [0]]), 0, 'num_levels must be at least 1'),
  ],
)
def test_from_levels_refuses_what_is_no_tensor_of_levels(levels, num_levels, word):
  with pytest.raises(ValueError, match=word):
    from_levels(levels, num_levels)


@pytest.mark.parametrize(
  'groups, word',
  [
    ([0, 2, 3], r'\[1\] are missing'),
    ([1, 2, 4], r'\[0, 3\] are missing'),
    ([-1, 0, 1], 'from 0'),
    ([0.0, 1.0], 'integers'),
    ([], 'integers'),
    ([[0], [1]], 'integers'),
  ],
)
def test_any_order_refuses_groups_that_skip_a_number(groups, word):
  with pytest.raises(ValueError, match=f'groups.*{word}'):
    any_order(groups)


@pytest.mark.parametrize('schedule', EVERY)
def test_settle_step_is_the_first_settled_row(schedule):
  expected = [int(np.argmax(schedule.levels[:, i] == 0)) for i in range(schedule.length)]
  np.testing.assert_array_equal(schedule.settle_step, expected)
  assert schedule.settle_step.dtype == np.int32


@pytest.mark.parametrize('schedule', EVERY)
def test_always_active_says_that_no_region_is_ever_else(schedule):
  regions = np.stack([schedule.regions(s) for s in range(schedule.num_steps)])
  assert schedule.always_active == bool((regions == Region.ACTIVE).all())


def test_regions_of_many_steps_stack_those_of_one():
  schedule = block(7, 3, 2)
  steps = np.array([[0, 5], [3, 3]])
  np.testing.assert_array_equal(
    schedule.regions(steps), [[schedule.regions(s) for s in row] for row in steps]
  )


@pytest.mark.parametrize('closed_over', [False, True], ids=['argument', 'closed over'])
@pytest.mark.parametrize('schedule', [block(7, 3, 2), slide(7, 3, 2)], ids=['block', 'slide'])
def test_regions_of_traced_steps(schedule, closed_over):
  if closed_over:
    regions = jax.jit(lambda step: schedule.regions(step))
  else:
    regions = lambda step: jax.jit(lambda schedule, step: schedule.regions(step))(schedule, step)  # noqa: E731
  for step in range(schedule.num_steps):
    ours = regions(jnp.asarray(step))
    assert ours.dtype == jnp.int8
    np.testing.assert_array_equal(ours, schedule.regions(step))


def test_settle_step_under_jit():
  schedule = slide(7, 3, 2)
  np.testing.assert_array_equal(
    jax.jit(lambda schedule: schedule.settle_step)(schedule), schedule.settle_step
  )


def test_different_schedules_of_one_shape_share_a_compilation():
  """Levels and the last time are arguments, and a name is no part of the program."""
  (levels, last_time), structure = jax.tree.flatten(flat(4, 2))
  assert levels.shape == (3, 4) and last_time == 1.0
  assert structure == jax.tree.structure(dataclasses.replace(flat(4, 2), last_time=0.3))
  assert structure != jax.tree.structure(block(4, 4, 2))  # it tiles
  traced = []

  @jax.jit
  def regions(schedule):
    traced.append(schedule.name)
    return schedule.regions(jnp.asarray(1))

  orders = [hyperschedules.shuffled(8, 2, seed) for seed in range(3)]
  orders.append(any_order([3, 3, 2, 2, 1, 1, 0, 0]))
  for schedule in orders:
    np.testing.assert_array_equal(regions(schedule), schedule.regions(1))
  assert traced == [orders[0].name]


@pytest.mark.parametrize('step', [-1, 4, np.array([0, 4]), jnp.asarray(-1)])
def test_step_outside_the_schedule_is_refused(step):
  with pytest.raises(IndexError, match=r'not in 0\.\.3'):
    block(4, 2, 2).regions(step)


def test_levels_cannot_be_overwritten():
  with pytest.raises(ValueError, match='read-only'):
    flat(4, 2).levels[0, 0] = 1


@pytest.mark.parametrize(
  'make, word',
  [
    (lambda: autoregressive(0), 'length'),
    (lambda: flat(0, 2), 'length'),
    (lambda: flat(4, 0), 'num_levels'),
    (lambda: block(0, 1, 2), 'length'),
    (lambda: block(4, 0, 2), 'width'),
    (lambda: block(4, 5, 2), 'width'),
    (lambda: block(4, 2, 0), 'num_levels'),
    (lambda: slide(4, 0, 2), 'width'),
    (lambda: slide(4, 5, 2), 'width'),
    (lambda: slide(4, 2, 0), 'num_levels'),
    (lambda: hybrid(0, 1, 2), 'length'),
    (lambda: hybrid(4, 0, 2), 'width'),
    (lambda: hybrid(4, 5, 2), 'width'),
    (lambda: hybrid(4, 2, 0), 'num_levels'),
    (lambda: ar_diffusion(0, 2), 'length'),
    (lambda: ar_diffusion(4, 0), 'num_levels'),
  ],
)
def test_bad_arguments_are_named(make, word):
  with pytest.raises(ValueError, match=word):
    make()


def test_strided_streams_run_side_by_side():
  for length, width in ((8, 2), (7, 3), (5, 5), (4, 1)):
    rows = -(-length // width)
    schedule = hyperschedules.strided(length, width)
    np.testing.assert_array_equal(schedule.levels, any_order(np.arange(length) % rows).levels)
    assert schedule.group_size <= width


def test_shuffled_groups_are_of_one_size_in_an_order_of_the_seed():
  schedule = hyperschedules.shuffled(10, 4, seed=1)
  steps = np.asarray(schedule.settle_step)
  np.testing.assert_array_equal(np.bincount(steps)[1:], [4, 4, 2])
  np.testing.assert_array_equal(schedule.levels, hyperschedules.shuffled(10, 4, seed=1).levels)
  assert (steps != hyperschedules.shuffled(10, 4, seed=2).settle_step).any()
  assert (np.diff(steps) < 0).any()


def test_by_name_lists_every_schedule_of_numbers():
  names = (
    'autoregressive',
    'flat',
    'block',
    'slide',
    'hybrid',
    'ar_diffusion',
    'shuffled',
    'strided',
  )
  assert {name: getattr(hyperschedules, name) for name in names} == hyperschedules.BY_NAME
