"""From autoregression to diffusion: the window that opens, and the loss."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import test_any_order as a3
import worlds
from test_any_order import B, L, V, keys_of, params, texts

from ardiff_jax import masks, noise
from ardiff_jax.hyperschedules import flat
from ardiff_jax.masks import Anneal
from ardiff_jax.objectives.adaptation import Adaptation
from ardiff_jax.objectives.likelihood import Examples, WeightedCrossEntropy
from ardiff_jax.sampling.steppers import Ranked

PROCESS = noise.absorbing(V)
CAUSAL = a3.make('shifted', window='causal', context='causal')
OPEN = a3.make('shifted', flat(L, 8), window='full')


@functools.partial(jax.jit, static_argnums=0)
def examples_of(batch=B, step=0, seed=3):
  return Examples(
    tokens=texts(batch),
    counted=jnp.ones((batch, L), bool),
    uniform=jnp.linspace(0.0, 0.99, batch),
    keys=jax.random.split(jax.random.key(seed), batch),
    step=jnp.int32(step),
  )


@functools.partial(jax.jit, static_argnums=0)
def loss_of(objective, weights, examples):
  return objective(OPEN, weights, examples, flat(L, 8))


def logits_of(tokens, anneal):
  regions, settle_step = np.ones(L, np.int8), np.full(L, 8)
  return np.asarray(a3.predict(OPEN, params(), tokens, regions, settle_step, anneal))


def reading(tokens):
  return np.asarray(a3.read(CAUSAL, tokens))


def anneal(share, seed=0):
  return Anneal(np.float32(share), np.int32(seed))


@jax.jit
@functools.partial(jax.vmap, in_axes=(None, 0))
def dense(share, seed):
  """bool[N, 64, 64] of int32[N] seeds."""
  place = jnp.arange(64)
  return Anneal(share, seed).visible(place[:, None], place[None])


# The window.


def test_rows_see_their_left_and_a_share_of_their_right():
  left = np.tril(np.ones((64, 64), bool))
  for share in (0.0, 0.3, 1.0):
    seen = np.asarray(dense(np.float32(share), np.arange(20)))
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
    shown = tokens.copy()
    shown[:, place:] = V
    ours = logits_of(shown, anneal(0.0))[:, place]
    np.testing.assert_allclose(ours, reading(tokens)[:, place], atol=2e-5, err_msg=f'{place}')


def test_closed_and_leftmost_first_it_decodes_as_the_autoregressive_model():
  """From nothing, and behind tokens that are given."""
  first = np.arange(B) % (V + 1)
  canvas, read = np.full((B, L), V, np.int32), np.zeros((B, L), np.int32)
  canvas[:, 0], read[:, 0] = first, first % V
  for place in range(L):
    free = canvas[:, place] == V
    best = logits_of(canvas, anneal(0.0))[:, place].argmax(axis=-1)
    canvas[free, place] = best[free]
    read[free, place] = reading(read)[free, place].argmax(axis=-1)
  np.testing.assert_array_equal(canvas, read)


def test_open_it_is_the_full_window_whatever_the_seed():
  tokens = texts()
  full = logits_of(tokens, None)
  for seed in (0, 1):
    np.testing.assert_allclose(logits_of(tokens, anneal(1.0, seed)), full, atol=2e-5)
  half = [logits_of(tokens, anneal(0.5, seed)) for seed in (0, 1)]
  assert np.abs(half[0] - half[1]).max() > 1e-3


def test_slices_of_the_mask_are_the_mask():
  """Attention makes it in parts of the queries; and it is never known beforehand."""

  @jax.jit
  def parts():
    place, some = jnp.arange(64), anneal(0.4)
    part = some.visible(place[16:32, None], place[None, 8:40])
    regions, sight = jnp.ones((1, 64), jnp.int8), masks.Sight('full')
    mask = masks.from_regions(regions, place, context='causal', sight=sight).replace(anneal=some)
    return part, mask, mask.dense()

  (whole,) = np.asarray(dense(np.float32(0.4), np.zeros(1, np.int32)))
  part, mask, (in_full,) = parts()
  np.testing.assert_array_equal(part, whole[16:32, 8:40])
  np.testing.assert_array_equal(in_full, whole)
  assert masks.fix(mask).fixed is None
  assert masks.fix(mask.replace(anneal=None)).fixed is not None


# The objective.


STAGED = Adaptation(PROCESS, causal_steps=5, anneal_steps=10)


def test_it_begins_as_next_token_prediction():
  examples = examples_of(step=4)
  loss = loss_of(STAGED, params(), examples)
  nats = a3._reading_nats(CAUSAL, params(), examples.tokens)
  np.testing.assert_allclose(loss, nats, atol=2e-5)
  given = examples_of(step=4)._replace(counted=np.zeros((B, L), bool))
  assert not loss_of(STAGED, params(), given).any()


def test_it_ends_as_the_diffusion_bound():
  theirs = loss_of(WeightedCrossEntropy(PROCESS), params(), examples_of())
  for objective, step in ((Adaptation(PROCESS), 0), (STAGED, 14)):
    ours = loss_of(objective, params(), examples_of(step=step))
    np.testing.assert_allclose(ours, theirs, atol=1e-4)


def test_the_window_opens_by_equal_steps():
  share = jax.jit(STAGED.share)
  shares = [float(share(np.int32(step))) for step in (5, 9, 13, 14, 99)]
  np.testing.assert_allclose(shares, [0.1, 0.5, 0.9, 1.0, 1.0])
  losses = [np.asarray(loss_of(STAGED, params(), examples_of(step=step))) for step in (6, 8, 12)]
  assert (losses[0] != losses[1]).any() and (losses[1] != losses[2]).any()


def test_equal_logits_cost_the_log_of_their_number_at_every_batch_size():
  """The denominator is fixed: not how many are masked, of which few would weigh as much as many."""
  zeros = jax.tree.map(np.zeros_like, params())
  objective, draw, losses = Adaptation(PROCESS, time_range=(0.1, 1.0)), np.random.default_rng(0), []
  for seed in range(20):
    uniform = draw.random(B).astype(np.float32)
    examples = examples_of(seed=seed)._replace(uniform=uniform)
    losses.append(np.asarray(loss_of(objective, zeros, examples)))
    if seed < 3:
      one = examples_of(seed=seed)._replace(uniform=uniform)
      one = one._replace(
        **{x: getattr(one, x)[:1] for x in ('tokens', 'counted', 'uniform', 'keys')}
      )
      alone = loss_of(objective, zeros, one)
      np.testing.assert_allclose(alone[0], losses[-1][0], rtol=1e-5)
  np.testing.assert_allclose(np.mean(losses), np.log(V), rtol=0.9 / np.sqrt(B))


def test_at_time_one_it_is_the_plain_cross_entropy_of_all_tokens():
  objective = Adaptation(PROCESS, time_range=(1.0 - 1e-6, 1.0))
  examples = examples_of()
  loss = loss_of(objective, params(), examples)
  law = np.log(worlds.softmax(logits_of(np.full((B, L), V, np.int32), None)))
  nats = -np.take_along_axis(law, np.asarray(examples.tokens)[..., None], axis=-1)
  np.testing.assert_allclose(loss, nats[..., 0], atol=1e-4)


def test_what_is_visible_weighs_nothing():
  half = np.full(B, 0.5, np.float32)
  corrupt = jax.jit(jax.vmap(PROCESS.corrupt))
  noisy = corrupt(examples_of().keys, texts(), np.full((B, L), 0.5, np.float32))
  loss = loss_of(Adaptation(PROCESS), params(), examples_of()._replace(uniform=half))
  np.testing.assert_array_equal(np.asarray(loss) > 0.0, noisy.masked)


def test_it_reveals_by_confidence_and_keeps_the_prompt():
  given = np.zeros((B, L), bool)
  given[:, :2] = True
  schedule = flat(L, 3)
  denoise = a3.make('shifted', schedule, window='full')
  arguments = denoise, params(), PROCESS, Ranked('confidence'), schedule, texts(), given
  result = a3.run(*arguments, keys_of(B), trace=9)
  np.testing.assert_array_equal(result.tokens[:, :2], texts()[:, :2])
  np.testing.assert_array_equal((np.asarray(result.trace) == V).sum(axis=2)[:, 0], [2, 1, 0])


def test_objective_refuses():
  with pytest.raises(ValueError, match='noise absorbing'):
    Adaptation(noise.uniform(V))
  with pytest.raises(ValueError, match='causal_steps'):
    Adaptation(PROCESS, causal_steps=-1)
  with pytest.raises(ValueError, match='time_range'):
    Adaptation(PROCESS, time_range=(0.5, 0.1))
  assert hash(Adaptation(PROCESS, time_range=[0.0, 1.0])) == hash(Adaptation(PROCESS))
