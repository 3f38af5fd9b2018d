"""From autoregression to diffusion: the window that opens, and the loss."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ardiff_jax import masks, noise
from ardiff_jax.hyperschedules import flat
from ardiff_jax.masks import Anneal
from ardiff_jax.objectives.adaptation import Adaptation
from ardiff_jax.objectives.likelihood import Examples, WeightedCrossEntropy, reading_nats
from ardiff_jax.sampling.steppers import Ranked
from tests import test_any_order as a3
from tests.test_any_order import L, V, keys_of, params, texts

PROCESS = noise.absorbing(V)
CAUSAL = a3.make('shifted', window='causal', context='causal')
OPEN = a3.make('shifted', flat(L, 8), window='full')
SHOWN = dict(regions=np.ones(L, np.int8), settle_step=np.full(L, 8))


def examples_of(batch, step=0):
  return Examples(
    tokens=texts(batch),
    counted=jnp.ones((batch, L), bool),
    uniform=jnp.linspace(0.0, 0.99, batch),
    keys=jax.random.split(jax.random.key(3), batch),
    step=jnp.int32(step),
  )


def logits_of(tokens, anneal):
  return OPEN(params(), tokens, sigma=jnp.zeros(tokens.shape), anneal=anneal, **SHOWN)


def reading(tokens):
  settled = dict(regions=np.zeros(L, np.int8), settle_step=np.arange(1, L + 1))
  return CAUSAL(params(), tokens, sigma=jnp.zeros(tokens.shape), **settled)


def anneal(share, seed=0):
  return Anneal(jnp.float32(share), jnp.int32(seed))


def dense(share, seed=0, size=64):
  place = jnp.arange(size)
  return np.asarray(anneal(share, seed).visible(place[:, None], place[None]))


# The window.


@pytest.mark.parametrize('share', [0.0, 0.3, 1.0])
def test_rows_see_their_left_and_a_share_of_their_right(share):
  seen = np.stack([dense(share, seed) for seed in range(20)])
  left = np.tril(np.ones((64, 64), bool))
  assert seen[:, left].all()
  right = seen[:, ~left]
  np.testing.assert_allclose(right.mean(), share, atol=0.01)
  if share == 0.3:
    assert (right.mean(axis=0) > 0.0).mean() > 0.99 and (right.mean(axis=0) < 0.8).all()
    pairs = (right[:, :-1] & right[:, 1:]).mean()
    np.testing.assert_allclose(pairs, 0.09, atol=0.01)  # neighbours are independent
    assert len({x.tobytes() for x in seen}) == 20


def test_closed_and_without_masks_it_is_the_autoregressive_model():
  tokens = texts()
  np.testing.assert_allclose(logits_of(tokens, anneal(0.0)), reading(tokens), atol=2e-5)


def test_closed_the_first_mask_is_predicted_as_the_next_token():
  tokens = texts()
  for place in range(L):
    shown = tokens.at[:, place:].set(V)
    ours = logits_of(shown, anneal(0.0))[:, place]
    np.testing.assert_allclose(ours, reading(tokens)[:, place], atol=2e-5)


def test_closed_and_leftmost_first_it_decodes_as_the_autoregressive_model():
  canvas, read = jnp.full((1, L), V), jnp.zeros((1, L), jnp.int32)
  for place in range(L):
    best = logits_of(canvas, anneal(0.0))[:, place].argmax(axis=-1)
    canvas = canvas.at[:, place].set(best)
    read = read.at[:, place].set(reading(read)[:, place].argmax(axis=-1))
  np.testing.assert_array_equal(canvas, read)


def test_open_it_is_the_full_window_whatever_the_seed():
  tokens = texts()
  full = logits_of(tokens, None)
  for seed in (0, 1):
    np.testing.assert_allclose(logits_of(tokens, anneal(1.0, seed)), full, atol=2e-5)
  half = [logits_of(tokens, anneal(0.5, seed)) for seed in (0, 1)]
  assert np.abs(half[0] - half[1]).max() > 1e-3


def test_slices_of_the_mask_are_the_mask():
  """Attention makes it in parts of the queries."""
  place = jnp.arange(64)
  whole = dense(0.4)
  part = anneal(0.4).visible(place[16:32, None], place[None, 8:40])
  np.testing.assert_array_equal(part, whole[16:32, 8:40])
  regions = jnp.ones((1, 64), jnp.int8)
  mask = masks.from_regions(regions, place, context='causal', sight=masks.Sight('full')).replace(
    anneal=anneal(0.4)
  )
  np.testing.assert_array_equal(mask.dense()[0], whole)
  assert masks.fix(mask).fixed is None


# The objective.


def test_it_begins_as_next_token_prediction():
  objective = Adaptation(PROCESS, causal_steps=5, anneal_steps=10)
  examples = examples_of(8, step=4)
  loss = objective(OPEN, params(), examples, flat(L, 8))
  np.testing.assert_allclose(loss, reading_nats(CAUSAL, params(), examples.tokens), atol=2e-5)
  given = examples_of(8, step=4)._replace(counted=jnp.zeros((8, L), bool))
  assert not objective(OPEN, params(), given, flat(L, 8)).any()


def test_it_ends_as_the_diffusion_bound():
  for objective, step in (
    (Adaptation(PROCESS), 0),
    (Adaptation(PROCESS, causal_steps=5, anneal_steps=10), 14),
  ):
    ours = objective(OPEN, params(), examples_of(8, step), flat(L, 8))
    theirs = WeightedCrossEntropy(PROCESS)(OPEN, params(), examples_of(8), flat(L, 8))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_window_opens_by_equal_steps():
  objective = Adaptation(PROCESS, causal_steps=5, anneal_steps=10)
  shares = [float(objective.share(jnp.int32(step))) for step in (5, 9, 13, 14, 99)]
  np.testing.assert_allclose(shares, [0.1, 0.5, 0.9, 1.0, 1.0])
  losses = [
    np.asarray(objective(OPEN, params(), examples_of(8, step), flat(L, 8))) for step in (6, 8, 12)
  ]
  assert (losses[0] != losses[1]).any() and (losses[1] != losses[2]).any()


@pytest.mark.parametrize('batch', [1, 8, 64])
def test_equal_logits_cost_the_log_of_their_number_at_every_batch_size(batch):
  """The denominator is fixed: not how many are masked, of which few would weigh as much as many."""
  zeros = jax.tree.map(jnp.zeros_like, params())
  total = 0.0
  for seed in range(20):
    examples = examples_of(batch)._replace(
      uniform=jnp.asarray(np.random.default_rng(seed).random(batch), jnp.float32),
      keys=jax.random.split(jax.random.key(seed), batch),
    )
    objective = Adaptation(PROCESS, time_range=(0.1, 1.0))
    total += float(objective(OPEN, zeros, examples, flat(L, 8)).mean()) / 20
  np.testing.assert_allclose(total, np.log(V), rtol=0.9 / np.sqrt(batch))


def test_at_time_one_it_is_the_plain_cross_entropy_of_all_tokens():
  objective = Adaptation(PROCESS, time_range=(1.0 - 1e-6, 1.0))
  examples = examples_of(4)
  loss = objective(OPEN, params(), examples, flat(L, 8))
  logits = logits_of(jnp.full((4, L), V), None)
  law = jax.nn.log_softmax(logits)
  nats = -np.take_along_axis(np.asarray(law), np.asarray(examples.tokens)[..., None], axis=-1)
  np.testing.assert_allclose(loss, nats[..., 0], atol=1e-4)


def test_what_is_visible_weighs_nothing():
  examples = examples_of(64)._replace(uniform=jnp.full(64, 0.5))
  keys = examples_of(64).keys  # the same, once more
  noisy = jax.vmap(PROCESS.corrupt)(keys, examples.tokens, jnp.full((64, L), 0.5))
  loss = np.asarray(Adaptation(PROCESS)(OPEN, params(), examples, flat(L, 8)))
  np.testing.assert_array_equal(loss > 0.0, noisy.masked)


def test_it_reveals_by_confidence_and_keeps_the_prompt():
  given = np.zeros((50, L), bool)
  given[:, :2] = True
  tokens = texts(50)
  schedule = flat(L, 3)
  denoise = a3.make('shifted', schedule, window='full')
  arguments = denoise, params(), PROCESS, Ranked('confidence'), schedule, tokens, given
  result = a3.run(*arguments, keys_of(50), trace=9)
  np.testing.assert_array_equal(result.tokens[:, :2], tokens[:, :2])
  np.testing.assert_array_equal((np.asarray(result.trace) == V).sum(axis=2)[:, 0], [2, 1, 0])


def test_objective_refuses():
  with pytest.raises(ValueError, match='noise absorbing'):
    Adaptation(noise.uniform(V))
  with pytest.raises(ValueError, match='causal_steps'):
    Adaptation(PROCESS, causal_steps=-1)
  with pytest.raises(ValueError, match='time_range'):
    Adaptation(PROCESS, time_range=(0.5, 0.1))
  assert hash(Adaptation(PROCESS, time_range=[0.0, 1.0])) == hash(Adaptation(PROCESS))
