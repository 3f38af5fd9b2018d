"""Rows that training shows: each position at a row where it is active, each such row alike."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from covers import pairwise
from worlds import random_params

from ardiff_jax import rows
from ardiff_jax.hyperschedules import Region, autoregressive, block, flat, hybrid, slide
from ardiff_jax.models.denoiser import make_denoiser
from ardiff_jax.models.transformer import Transformer, TransformerConfig
from ardiff_jax.noise import epsilon_hybrid, gamma_hybrid
from ardiff_jax.objectives.likelihood import Examples, ScoreEntropy, WeightedCrossEntropy

LENGTH, VOCAB = 7, 11
TILING = [
  block(LENGTH, 3, 4),
  block(LENGTH, 7, 3),
  slide(LENGTH, 3, 2),
  slide(LENGTH, 2, 5),
  hybrid(LENGTH, 3, 2),
  hybrid(LENGTH, 4, 2),
  hybrid(LENGTH, 7, 3),
]
by_name = dict(ids=lambda schedule: schedule.name)


def drawn(schedule, count):
  """Rows of an even grid of uniforms, as numpy."""
  uniform = (np.arange(count) + 0.5) / count
  return jax.tree.map(np.asarray, rows.tiled(schedule, jnp.asarray(uniform, jnp.float32)))


@pytest.mark.parametrize('schedule', TILING, **by_name)
def test_tiles_are_whole_windows_that_do_not_overlap(schedule):
  several = drawn(schedule, 50)
  for b in range(50):
    one = jax.tree.map(lambda x, b=b: x[b], several)
    tiles = [t for t in np.unique(one.tile) if t >= 0]
    shown = rows.tiles(schedule, one)
    np.testing.assert_array_equal(shown.tile, one.tile)
    assert (shown.num_settled == one.num_settled)[one.tile >= 0].all()
    assert len(tiles) <= shown.num_tiles
    for tile in tiles:
      mine = one.tile == tile
      (step,) = np.unique(one.step[mine])
      regions = schedule.regions(int(step))
      np.testing.assert_array_equal(mine, regions == Region.ACTIVE)
      assert (one.num_settled[mine] == (regions == Region.SETTLED).sum()).all()
      assert one.num_settled[mine][0] <= shown.num_context
    position = np.arange(LENGTH)
    np.testing.assert_array_equal(one.level, schedule.levels[one.step, position])
    np.testing.assert_array_equal(one.level - one.drop, schedule.levels[one.step + 1, position])


@pytest.mark.parametrize('schedule', TILING, **by_name)
def test_every_row_at_which_a_position_is_active_has_its_share(schedule):
  """Over a grid of 840 uniforms, num_rows times the frequency of a row is 1, within 4 in 100."""
  several = drawn(schedule, 840)
  regions_SxL = schedule.regions(np.arange(schedule.num_steps))
  for i in range(LENGTH):
    trained = several.tile[:, i] >= 0
    counts = np.bincount(several.step[trained, i], minlength=schedule.num_steps)
    share = several.num_rows[0, i] * counts / 840
    np.testing.assert_allclose(share, regions_SxL[:, i] == Region.ACTIVE, atol=0.04)


def test_only_schedules_whose_windows_tile_are_taken():
  for schedule in (flat(LENGTH, 3), autoregressive(LENGTH)):
    with pytest.raises(ValueError, match=f'block, slide or hybrid, got {schedule.name[:4]}'):
      rows.tiled(schedule, jnp.zeros(1))


@pytest.mark.parametrize('num_steps', [1, 7, 100])
def test_split_row_is_floor_and_fraction(num_steps):
  uniform = np.append(np.random.default_rng(0).random(1000), [0.0, 1 - 2**-24]).astype(np.float32)
  step, within = rows.split_row(jnp.asarray(uniform), num_steps)
  assert step.min() >= 0 and step.max() == num_steps - 1
  assert within.min() >= 0.0 and within.max() < 1.0
  np.testing.assert_allclose((step + within) / num_steps, uniform, atol=1e-6)


NETWORK = Transformer(TransformerConfig(VOCAB, model_dim=16, num_layers=2, num_heads=2))
OBJECTIVES = {
  'annealed': WeightedCrossEntropy(epsilon_hybrid(VOCAB, 0.2)),
  'discrete': WeightedCrossEntropy(epsilon_hybrid(VOCAB, 0.2), continuous_time=False),
  'score_entropy': ScoreEntropy(gamma_hybrid(VOCAB, 0.2)),
}


@functools.partial(jax.jit, static_argnames=('objective', 'denoiser'))
def loss(objective, denoiser, params, schedule, uniform):
  tokens = jax.random.randint(jax.random.key(1), (1, LENGTH), 0, VOCAB)
  counted = jnp.asarray([[True] * 2 + [False] + [True] * 4])
  keys = jax.random.split(jax.random.key(2), 1)
  return objective(denoiser, params, Examples(tokens, counted, uniform[None], keys), schedule)[0]


@pytest.mark.parametrize('schedule, objective', pairwise(TILING, OBJECTIVES))
def test_a_doubled_loss_is_that_of_each_window_alone(schedule, objective):
  """Position by position: the loss of its row, of the same noise, each times its number of rows."""
  objective = OBJECTIVES[objective]
  doubled = dataclasses.replace(objective, doubled=True)
  denoiser = make_denoiser(
    NETWORK,
    schedule,
    alignment='shifted',
    context='block_causal',
    window='full',
    bos_id=0,
    eos_id=1,
  )
  params = random_params(lambda: denoiser.init(jax.random.key(0), LENGTH))
  call = lambda objective, uniform: np.asarray(  # noqa: E731
    loss(objective, denoiser, params, schedule, np.float32(uniform))
  )
  uniform = 0.37
  one = jax.tree.map(lambda x: np.asarray(x)[0], rows.tiled(schedule, jnp.asarray([uniform])))
  ours = call(doubled, uniform) / one.num_rows
  assert (ours[one.tile < 0] == 0).all() and (ours > 1e-3).any()
  for i in np.flatnonzero(one.tile >= 0):
    expected = call(objective, (one.step[i] + one.within[i]) / schedule.num_steps)[i]
    np.testing.assert_allclose(ours[i], expected / schedule.num_steps, rtol=1e-3, atol=1e-6)
