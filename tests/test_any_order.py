"""Any-order any-subset autoregression: two streams, their law, their cache, their objective."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest

from ardiff_jax import noise, rng
from ardiff_jax.hyperschedules import Region, any_order, autoregressive, flat, shuffled, strided
from ardiff_jax.models import layouts
from ardiff_jax.models.denoiser import make_denoiser
from ardiff_jax.models.transformer import Transformer, TransformerConfig
from ardiff_jax.objectives.any_order import AnyOrder, _draw, masked_rank, order_nats
from ardiff_jax.objectives.likelihood import Examples, reading_nats
from ardiff_jax.sampling.controls import Controls
from ardiff_jax.sampling.loop import generate
from ardiff_jax.sampling.steppers import Ancestral, Ranked
from configs import a3 as a3_config
from tests import worlds

V, L = 3, 5
CONFIG = TransformerConfig(
  V, model_dim=16, num_layers=3, num_heads=2, tie_embedding=False, mask_positions=L + 1
)
ORDERS = {
  'identity': np.arange(L),
  'reversed': np.arange(L)[::-1],
  'permuted': np.array([3, 0, 4, 1, 2]),
  'pairs': np.arange(L) // 2,
  'mixed': np.array([1, 0, 1, 2, 0]),
  'together': np.zeros(L, int),
}
BOTH = pytest.mark.parametrize('alignment', ['aligned', 'shifted'])
EVERY = pytest.mark.parametrize('order', ORDERS.values(), ids=ORDERS)


def make(alignment, schedule=None, window='none', context='block_causal', config=CONFIG):
  schedule = autoregressive(L) if schedule is None else schedule
  rules = dict(alignment=alignment, context=context, window=window, bos_id=0, eos_id=0)
  return make_denoiser(Transformer(config), schedule, **rules)


@functools.cache
def params(config=CONFIG):
  """Random, and large enough that everything matters."""
  tree = nn.unbox(make('aligned', config=config).init(jax.random.key(0), L))
  keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(tree))))
  return jax.tree.map(lambda x: x + 0.3 * jax.random.normal(next(keys), x.shape), tree)


def texts(batch=4, seed=0):
  return jnp.asarray(np.random.default_rng(seed).integers(0, V, (batch, L)), jnp.int32)


def logits_of(denoise, tokens, order, weights=None):
  settle_step = jnp.broadcast_to(jnp.asarray(order) + 1, tokens.shape)
  sigma = jnp.zeros(tokens.shape)
  weights = params() if weights is None else weights
  return denoise.two_stream(weights, tokens, sigma=sigma, settle_step=settle_step)


def test_in_the_order_of_the_text_queries_are_an_autoregressive_model():
  """Shifted, groups of one: the same parameters, read by a causal model, say the same."""
  causal = make('shifted', window='causal', context='causal')
  tokens = texts()
  theirs = causal(
    params(),
    tokens,
    sigma=jnp.zeros(tokens.shape),
    regions=np.zeros(L, np.int8),
    settle_step=np.arange(1, L + 1),
  )
  ours = logits_of(make('shifted'), tokens, ORDERS['identity'])
  np.testing.assert_allclose(ours, theirs, atol=2e-5)
  nats = order_nats(make('shifted'), params(), tokens, ORDERS['identity'] + 1)
  np.testing.assert_allclose(nats, reading_nats(causal, params(), tokens), atol=2e-5)


def test_in_the_order_of_the_text_the_context_is_a_causal_model():
  """What content rows say at the end, aligned and shifted."""
  tokens = texts()
  for alignment, start in (('aligned', 0), ('shifted', 1)):
    denoise = make(alignment)
    canvas, sigma = jnp.full_like(tokens, V), jnp.zeros(tokens.shape)
    layout = layouts.two_stream(denoise.rules, tokens, canvas, sigma, jnp.arange(1, L + 1))
    features, _ = denoise._blocks(params(), layout)
    content = denoise.project(params(), jax.tree.map(lambda x: x[:, L:], features))
    shown = jnp.concatenate([jnp.zeros((4, 1), jnp.int32), tokens], axis=1)[:, 1 - start :]
    causal = make('shifted', autoregressive(len(shown[0])), 'causal', 'causal')
    slots = len(shown[0])
    rows, _ = causal._blocks(
      params(),
      layouts.Layout(
        shown,
        jnp.zeros(shown.shape),
        jnp.arange(slots),
        layouts.masks.from_regions(
          jnp.zeros(shown.shape, jnp.int8),
          jnp.arange(slots),
          context='causal',
          sight=causal.rules.sight,
        ),
        slots,
      ),
    )
    np.testing.assert_allclose(content, causal.project(params(), rows), atol=2e-5)


@BOTH
@EVERY
def test_a_query_depends_on_earlier_groups_and_on_nothing_else(alignment, order):
  """Bit for bit: not on its own token, its own group or what comes after."""
  denoise, tokens = make(alignment), texts()
  before = logits_of(denoise, tokens, order)
  for j in range(L):
    after = logits_of(denoise, tokens.at[:, j].set((tokens[:, j] + 1) % V), order)
    same = np.asarray((before == after).all(axis=(0, 2)))
    moved = np.abs(np.asarray(before - after)).max(axis=(0, 2))
    np.testing.assert_array_equal(same, order <= order[j])
    assert (moved[order > order[j]] > 1e-6).all()


@BOTH
@EVERY
def test_the_law_of_every_order_sums_to_one(alignment, order):
  every = jnp.asarray(worlds.sequences(V, L))
  nats = order_nats(make(alignment), params(), every, jnp.asarray(order) + 1)
  np.testing.assert_allclose(
    np.exp(-np.asarray(nats.sum(axis=1), np.float64)).sum(), 1.0, atol=1e-5
  )


@BOTH
def test_two_groups_are_a_masked_language_model_whose_masks_are_not_seen(alignment):
  """Two streams, and one pass over the text with masks, whose keys and values nothing looks at."""
  denoise, tokens, order = make(alignment), texts(), np.array([0, 1, 0, 1, 1])
  hidden = order == 1
  theirs = denoise(
    params(),
    jnp.where(hidden, V, tokens),
    sigma=jnp.zeros(tokens.shape),
    regions=np.where(hidden, Region.ACTIVE, Region.SETTLED).astype(np.int8),
    settle_step=order + 1,
  )
  ours = logits_of(denoise, tokens, order)
  np.testing.assert_allclose(ours[:, hidden], theirs[:, hidden], atol=2e-5)


@BOTH
def test_only_the_order_of_groups_counts_and_each_example_has_its_own(alignment):
  denoise, tokens = make(alignment), texts(len(ORDERS))
  orders = np.stack(list(ORDERS.values()))
  together = logits_of(denoise, tokens, orders)
  np.testing.assert_array_equal(together, logits_of(denoise, tokens, 7 * orders + 2))
  for row, order in enumerate(orders):
    alone = logits_of(denoise, tokens[row : row + 1], order)
    np.testing.assert_allclose(together[row], alone[0], atol=1e-5)


def test_storage_order_does_not_matter():
  """Rows permuted with their positions and groups: predictions permuted."""
  denoise, tokens = make('aligned'), texts()
  canvas, sigma = jnp.full_like(tokens, V), jnp.zeros(tokens.shape)
  settle_step = jnp.broadcast_to(ORDERS['mixed'] + 1, tokens.shape)
  layout = layouts.two_stream(denoise.rules, tokens, canvas, sigma, settle_step)
  place = np.array([4, 2, 0, 1, 3])
  rows = np.concatenate([place, L + place])
  mask = layout.mask.replace(
    **{name: getattr(layout.mask, name)[:, rows] for name in ('rank', 'reach', 'tile', 'position')}
  )
  moved = layout._replace(
    tokens=layout.tokens[:, rows],
    sigma=layout.sigma[:, rows],
    positions=layout.positions[rows],
    mask=mask,
  )
  ours, theirs = (denoise._run(params(), x, None) for x in (moved, layout))
  np.testing.assert_allclose(ours, theirs[:, place], atol=1e-5)


def test_who_sees_nothing_tells_positions_apart_by_their_own_vectors():
  tokens = texts()
  plain = dataclasses.replace(CONFIG, mask_positions=0)
  blind = logits_of(make('aligned', config=plain), tokens, ORDERS['together'], params(plain))
  assert np.ptp(blind, axis=1).max() < 1e-6 and np.isfinite(blind).all()
  seeing = logits_of(make('aligned'), tokens, ORDERS['together'])
  assert (np.ptp(seeing, axis=1).max(axis=-1) > 1e-2).all()
  np.testing.assert_array_equal(seeing[0], seeing[1])  # unigram predictions


# Generation.


@functools.partial(
  jax.jit, static_argnames=('denoise', 'process', 'use_cache', 'trace', 'controls')
)
def run(denoise, weights, process, stepper, schedule, tokens, given, keys, **kwargs):
  return generate(denoise, weights, process, stepper, schedule, tokens, given, keys, **kwargs)


def keys_of(n):
  return jax.random.split(jax.random.key(2), n)


SCHEDULES = [any_order(order) for order in ORDERS.values()]
SCHEDULES += [shuffled(L, 2, seed=1), strided(L, 2)]


@BOTH
@pytest.mark.parametrize('schedule', SCHEDULES, ids=lambda x: x.name)
def test_generation_follows_the_likelihood_with_a_cache_and_without(alignment, schedule):
  n, denoise = 4000, make(alignment, schedule)
  blank, free = jnp.zeros((n, L), jnp.int32), jnp.zeros((n, L), bool)
  arguments = denoise, params(), noise.absorbing(V), Ancestral(), schedule, blank, free
  results = [run(*arguments, keys_of(n))]
  if denoise.is_cacheable:
    results.append(run(*arguments, keys_of(n), use_cache=True))
    assert (np.asarray(results[0].tokens) == np.asarray(results[1].tokens)).mean() > 0.999
  every = worlds.sequences(V, L)
  nats = order_nats(denoise, params(), jnp.asarray(every), schedule.settle_step)
  law = np.exp(-np.asarray(nats.sum(axis=1), np.float64))
  for result in results:
    assert int(result.network_calls) == schedule.num_steps
    share = np.bincount(worlds.index_of(np.asarray(result.tokens), V), minlength=V**L) / n
    expected = np.sqrt(law * (1 - law) / n)
    assert np.abs(share - law).sum() < 1.2 * np.sqrt(2 / np.pi) * expected.sum()


@pytest.mark.parametrize('use_cache', [False, True])
def test_groups_of_one_in_the_order_of_the_text_write_what_an_autoregressive_model_does(use_cache):
  schedule, blank, free = (
    autoregressive(L),
    jnp.zeros((500, L), jnp.int32),
    jnp.zeros((500, L), bool),
  )
  arguments = params(), noise.absorbing(V), Ancestral(), schedule, blank, free, keys_of(500)
  ours, theirs = (
    np.asarray(run(denoise, *arguments, use_cache=use_cache).tokens)
    for denoise in (make('shifted'), make('shifted', window='causal', context='causal'))
  )
  assert (ours == theirs).all(axis=1).mean() > 0.99  # but for rounding at the edge of a draw
  assert len(np.unique(ours, axis=0)) > 20


@BOTH
def test_given_tokens_are_kept_and_seen(alignment):
  schedule = any_order(np.array([0, 2, 0, 1, 0]))
  denoise, tokens = make(alignment, schedule), texts(500)
  given = jnp.broadcast_to(jnp.asarray(np.array([1, 0, 1, 0, 1], bool)), tokens.shape)
  arguments = denoise, params(), noise.absorbing(V), Ancestral(), schedule, tokens, given
  result, cached = (run(*arguments, keys_of(500), use_cache=use) for use in (False, True))
  np.testing.assert_array_equal(result.tokens[:, ::2], tokens[:, ::2])
  assert (np.asarray(result.tokens) == np.asarray(cached.tokens)).mean() > 0.999
  assert int(result.network_calls) == 2
  filled = jnp.asarray(result.tokens)
  nats = order_nats(denoise, params(), filled, schedule.settle_step)
  assert float(nats[:, 1::2].mean()) < 1.2  # drawn from what is told; -log 1/3 is 1.1


@BOTH
def test_what_is_given_is_seen_by_all_groups_wherever_it_stands(alignment):
  """Tokens of the first and of the last group are given: the others follow the law that
  `order_nats` has of them when these come first, with a cache and without."""
  n, order = 4000, np.array([2, 0, 1, 3, 3])
  schedule, free = any_order(order), np.array([1, 2])
  denoise = make(alignment, schedule)
  tokens = jnp.broadcast_to(texts(1)[0], (n, L))
  given = jnp.ones((n, L), bool).at[:, free].set(False)
  arguments = denoise, params(), noise.absorbing(V), Ancestral(), schedule, tokens, given
  every = np.repeat(np.asarray(tokens[:1]), V**2, axis=0)
  every[:, free] = worlds.sequences(V, 2)
  settle_step = jnp.where(given[0], 1, jnp.asarray(order) + 2)
  nats = order_nats(denoise, params(), jnp.asarray(every), settle_step)
  law = np.exp(-np.asarray(nats[:, free].sum(axis=1), np.float64))
  np.testing.assert_allclose(law.sum(), 1.0, atol=1e-5)
  for use in (False, True):
    result = run(*arguments, keys_of(n), use_cache=use)
    index = worlds.index_of(np.asarray(result.tokens)[:, free], V)
    share = np.bincount(index, minlength=V**2) / n
    assert (np.abs(share - law) < 5 * np.sqrt(law * (1 - law) / n)).all()
    assert int(result.network_calls) == 2


# Objective.


def examples_of(batch=512, length=L, step=0):
  draw = np.random.default_rng(1)
  return Examples(
    tokens=jnp.asarray(draw.integers(0, V, (batch, length)), jnp.int32),
    counted=jnp.asarray(draw.random((batch, length)) < 0.8),
    uniform=jnp.asarray(draw.random(batch), jnp.float32),
    keys=jax.random.split(jax.random.key(3), batch),
    step=step,
  )


def drawn(examples, width, share, given=0.0):
  draw = jax.vmap(_draw, (0, 0, None, None, None))
  return [np.asarray(x) for x in draw(examples.keys, examples.counted, width, share, given)]


@pytest.mark.parametrize('width', [1, 2, 4])
def test_groups_are_of_the_width_drawn_and_what_is_given_comes_first(width):
  groups, counted = drawn(examples_of(length=9), width, 1.0)
  np.testing.assert_array_equal(counted, examples_of(length=9).counted)
  assert (groups[~counted] == 1).all() and (groups[counted] >= 2).all()
  largest = []
  for row, free in zip(groups, counted, strict=True):
    _, sizes = np.unique(row[free], return_counts=True)
    assert (sizes[:-1] == sizes.max(initial=0)).all()  # all but the last group are full
    largest.append(sizes.max(initial=0))
  assert max(largest) == width
  if width == 4:
    assert {1, 2, 3, 4} <= set(largest)


@pytest.mark.parametrize('share', [0.0, 0.5, 1.0])
def test_as_many_orders_are_shuffled_as_asked(share):
  groups, counted = drawn(examples_of(2000, 9), 1, share)
  in_order = np.mean(
    [(np.diff(row[free]) > 0).all() for row, free in zip(groups, counted, strict=True)]
  )
  np.testing.assert_allclose(in_order, 1.0 - share, atol=0.04)


def test_given_positions_are_as_many_as_asked_and_weigh_nothing():
  objective, examples = AnyOrder(1, ((0.0, 1, 0.0, 0.6),)), examples_of(4000, 9)
  _, counted = drawn(examples, 2, 1.0, 0.6)
  share = 1.0 - counted[np.asarray(examples.counted)].mean()
  np.testing.assert_allclose(share, 0.3, atol=0.02)
  few = examples_of()
  loss = objective(make('aligned'), params(), few, None)
  _, counted = drawn(few, 1, 0.0, 0.6)
  np.testing.assert_array_equal(np.asarray(loss) == 0.0, ~counted)


def test_the_first_stage_of_the_config_is_autoregression():
  """Every token is trained, and given those to its left alone: what a causal model reads."""
  stages = a3_config.get_config('tiny').objective.stages
  assert [stage[1:3] for stage in stages] == [(1, 0.0), (4, 0.0), (4, 1.0)]
  whole = examples_of(8)._replace(counted=jnp.ones((8, L), bool))
  loss = AnyOrder(90, stages)(make('shifted'), params(), whole, None)
  causal = make('shifted', window='causal', context='causal')
  np.testing.assert_allclose(loss, reading_nats(causal, params(), whole.tokens), atol=2e-5)


def test_stages_follow_the_step_without_compiling_again():
  objective = AnyOrder(30, ((0.0, 1, 0.0, 0.0), (1 / 3, 4, 0.0, 0.0), (2 / 3, 4, 1.0, 0.5)))
  denoise, count = make('aligned'), []

  @jax.jit
  def loss(step):
    count.append(1)
    return objective(denoise, params(), examples_of()._replace(step=step), None)

  first, second, third = (1, 0.0, 0.0), (4, 0.0, 0.0), (4, 1.0, 0.5)
  for step, stage in {0: first, 9: first, 10: second, 20: third}.items():
    groups, counted = drawn(examples_of(), *stage)
    nats = order_nats(denoise, params(), examples_of().tokens, jnp.asarray(groups))
    expected = np.where(counted, nats, 0.0)
    np.testing.assert_allclose(loss(jnp.int32(step)), expected, atol=1e-4)
  assert len(count) == 1


def test_loss_of_equal_logits_is_the_log_of_their_number():
  zeros = jax.tree.map(jnp.zeros_like, params())
  for batch in (1, 7):
    few = examples_of(batch)
    loss = AnyOrder(1, ((0.0, 4, 1.0, 0.0),))(make('aligned'), zeros, few, None)
    np.testing.assert_allclose(loss.sum() / few.counted.sum(), np.log(V), rtol=1e-5)


def test_masked_rank_counts_among_the_counted():
  place, counted = jnp.array([3, 0, 4, 1, 2]), jnp.array([1, 0, 1, 1, 0], bool)
  np.testing.assert_array_equal(masked_rank(place, counted)[np.array([0, 2, 3])], [1, 2, 0])


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(stages=()), 'of the form'),
    (dict(stages=((0.0, 1, 0.0),)), 'of the form'),
    (dict(stages=((0.5, 1, 0.0, 0.0),)), 'begin at 0'),
    (dict(stages=((0.0, 1, 0.0, 0.0), (0.0, 2, 0.0, 0.0))), 'rise'),
    (dict(stages=((0.0, 1, 0.0, 0.0), (1.0, 2, 0.0, 0.0))), 'shares of the updates'),
    (dict(stages=((0.0, 0, 0.0, 0.0),)), 'width from 1'),
    (dict(stages=((0.0, 1, 2.0, 0.0),)), r'shuffled in \[0, 1\]'),
    (dict(stages=((0.0, 1, 0.0, 1.0),)), r'given in \[0, 1\)'),
  ],
)
def test_objective_refuses(settings, message):
  with pytest.raises(ValueError, match=message):
    AnyOrder(1, **settings)


# Generation by rank.


def ranked_reference(denoise, canvas, given, uniforms, score, num_steps, keeps_order):
  """The loop of `Ranked` in numpy, of one batch; also returns log-probabilities and the order."""
  canvas, settle_step = canvas.copy(), np.where(given, 1, num_steps + 2)
  log_prob = np.zeros(canvas.shape)
  free = (~given).sum(axis=1)
  for s in range(num_steps):
    masked = (canvas == V) & ~given
    regions = np.where(canvas == V, 1, 0).astype(np.int8)
    logits = denoise(
      params(),
      jnp.asarray(canvas),
      sigma=jnp.zeros(canvas.shape),
      regions=jnp.asarray(regions),
      settle_step=jnp.asarray(settle_step) if keeps_order else jnp.full(L, num_steps),
    )
    law = worlds.softmax(np.asarray(logits, np.float64))
    scores = {
      'confidence': law.max(axis=-1),
      'entropy': (law * np.log(law)).sum(axis=-1),
      'random': uniforms[s][:, 0],
    }[score]
    left = np.floor(free * (num_steps - s - 1) / num_steps + 1e-4)
    for b in range(len(canvas)):
      order = sorted(np.flatnonzero(masked[b]), key=lambda i: (-scores[b, i], i))
      for i in order[: int(masked[b].sum() - left[b])]:
        canvas[b, i] = np.searchsorted(np.cumsum(law[b, i]), uniforms[s][b, 1, i], side='right')
        log_prob[b, i], settle_step[b, i] = np.log(law[b, i, canvas[b, i]]), s + 2
  return canvas, log_prob, settle_step


@BOTH
@pytest.mark.parametrize('keeps_order', [False, True], ids=['all', 'in order'])
@pytest.mark.parametrize('score', ['random', 'confidence', 'entropy'])
def test_the_surest_masks_are_revealed_as_many_at_every_step(alignment, score, keeps_order):
  num_steps, n = 3, 60
  schedule = flat(L, num_steps)
  denoise = make(alignment, schedule)
  given = np.random.default_rng(0).random((n, L)) < 0.3
  tokens = texts(n)
  stepper = Ranked(score, keeps_order)
  arguments = denoise, params(), noise.absorbing(V), stepper, schedule, tokens, given
  result = run(*arguments, keys_of(n), trace=9)
  draw = lambda key, s: jax.random.uniform(rng.stream(key, 'step', s), (2, L))  # noqa: E731
  uniforms = [np.asarray(jax.vmap(draw, (0, None))(keys_of(n), s)) for s in range(num_steps)]
  start = np.where(given, tokens, V)
  expected, log_prob, order = ranked_reference(
    denoise, start, given, uniforms, score, num_steps, keeps_order
  )
  if keeps_order:  # the law that it draws from is the one that is measured
    nats = order_nats(denoise, params(), jnp.asarray(expected), jnp.asarray(order))
    np.testing.assert_allclose(np.asarray(nats)[~given], -log_prob[~given], atol=1e-4)
    cached = run(*arguments, keys_of(n), use_cache=True)
    same = (np.asarray(cached.tokens) == np.asarray(result.tokens)).all(axis=1)
    assert same.mean() > 0.95  # ties of rounding, after which all is other
    np.testing.assert_array_equal(cached.network_calls, result.network_calls)
  same = (np.asarray(result.tokens) == expected).all(axis=1)
  assert same.mean() > 0.95  # ties of rounding
  np.testing.assert_array_equal(np.asarray(result.tokens)[given], np.asarray(tokens)[given])
  free = (~given).sum(axis=1)
  for s, canvas in enumerate(np.asarray(result.trace)):
    left = np.floor(free * (num_steps - s - 1) / num_steps + 1e-4)
    np.testing.assert_array_equal((canvas == V).sum(axis=1), left)


@BOTH
def test_kept_order_gives_the_same_logits_cached_and_uncached(alignment):
  """Every example reveals its own positions, none at all at some steps."""
  denoise, n, num_steps = make(alignment, flat(L, 3)), 6, 3
  tokens, draw = texts(n), np.random.default_rng(1)
  order = jnp.asarray(draw.integers(0, num_steps + 1, (n, L)), jnp.int32)
  cache = denoise.empty_cache(n, L)
  for step in range(num_steps):
    is_mask = order > step
    canvas, sigma = jnp.where(is_mask, V, tokens), jnp.where(is_mask, 1.0, 0.0)
    settle_step = jnp.where(is_mask, num_steps + 1, order)
    features, entries = denoise.extend(
      params(),
      cache,
      canvas,
      sigma=sigma,
      window=jnp.arange(L),
      step=step,
      cached_step=step - 1,
      settle_step=settle_step,
      num_new=L + 1,
    )
    cache = cache.write(entries)
    logits = denoise(
      params(),
      canvas,
      sigma=sigma,
      regions=is_mask.astype(jnp.int8),
      settle_step=settle_step,
    )
    cached = denoise.project(params(), features)
    np.testing.assert_allclose(cached[is_mask], logits[is_mask], atol=2e-5)


def test_ranked_in_one_step_draws_everything_at_once():
  n = 3000
  schedule, denoise = flat(L, 1), make('aligned', flat(L, 1))
  blank, free = jnp.zeros((n, L), jnp.int32), jnp.zeros((n, L), bool)
  arguments = denoise, params(), noise.absorbing(V)
  once, groups = (
    run(*arguments, stepper, schedule, blank, free, keys_of(n)).tokens
    for stepper in (Ranked('confidence'), Ancestral())
  )
  np.testing.assert_array_equal(once, groups)


@pytest.mark.parametrize('score', ['confidence', 'entropy'])
def test_what_is_surest_does_not_depend_on_the_temperature(score):
  """At temperature 0 every draw is sure: the model's own law says where to begin, behind each of
  the tokens that may come first."""
  schedule, n = flat(L, L), V
  denoise = make('aligned', schedule)
  tokens = jnp.broadcast_to(jnp.arange(V)[:, None], (n, L))
  given = jnp.zeros((n, L), bool).at[:, 0].set(True)
  arguments = denoise, params(), noise.absorbing(V), Ranked(score), schedule, tokens, given
  cold = run(*arguments, keys_of(n), controls=Controls(temperature=0.0))
  logits = denoise(
    params(),
    jnp.where(given, tokens, V),
    sigma=jnp.zeros((n, L)),
    regions=jnp.where(given, 0, 1).astype(jnp.int8),
    settle_step=np.full(L, L),
  )
  law = worlds.softmax(np.asarray(logits, np.float64))[:, 1:]
  sure = law.max(axis=-1) if score == 'confidence' else (law * np.log(law)).sum(axis=-1)
  first = sure.argmax(axis=1)
  assert first.any()  # not from left to right
  revealed = np.asarray(cold.reveal_step)[:, 1:]
  np.testing.assert_array_equal(np.where(revealed < 0, L, revealed).argmin(axis=1), first)
  best = np.take_along_axis(law, first[:, None, None], axis=1).argmax(axis=-1)[:, 0]
  np.testing.assert_array_equal(np.asarray(cold.tokens)[np.arange(n), 1 + first], best)


def test_ranked_refuses_another_score():
  with pytest.raises(ValueError, match='random, confidence, entropy'):
    Ranked('luck')
