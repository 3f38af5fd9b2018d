"""Any-order any-subset autoregression: two streams, their law, their cache, their objective."""

import dataclasses
import functools
import itertools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds

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

V, L, B = 3, 5, 60
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


def make(alignment, schedule=None, window='none', context='block_causal', config=CONFIG):
  schedule = autoregressive(L) if schedule is None else schedule
  rules = dict(alignment=alignment, context=context, window=window, bos_id=0, eos_id=0)
  return make_denoiser(Transformer(config), schedule, **rules)


@functools.cache
def params(config=CONFIG):
  """Random, and large enough that everything matters."""
  return worlds.random_params(lambda: make('aligned', config=config).init(jax.random.key(0), L))


def texts(batch=B, seed=0):
  return np.random.default_rng(seed).integers(0, V, (batch, L)).astype(np.int32)


# Compiled once for a denoiser and a shape, so that tests share them.


@functools.partial(jax.jit, static_argnums=0)
def predict(denoise, weights, canvas, regions, settle_step, anneal=None):
  sigma = jnp.zeros(canvas.shape)
  shown = dict(regions=regions, settle_step=settle_step)
  more = {} if anneal is None else {'anneal': anneal}
  return denoise(weights, canvas, sigma=sigma, **shown, **more)


def read(denoise, tokens):
  """What a causal model says of each token, given those before it."""
  return predict(denoise, params(), tokens, np.zeros(L, np.int8), np.arange(1, L + 1))


@functools.partial(jax.jit, static_argnums=0)
def _two_stream(denoise, weights, tokens, settle_step):
  return denoise.two_stream(weights, tokens, sigma=jnp.zeros(tokens.shape), settle_step=settle_step)


def logits_of(denoise, tokens, order, weights=None):
  settle_step = np.broadcast_to(np.asarray(order, np.int32) + 1, tokens.shape)
  weights = params() if weights is None else weights
  return np.asarray(_two_stream(denoise, weights, tokens, settle_step))


_order_nats = jax.jit(order_nats, static_argnums=0)


def nats_of(denoise, tokens, settle_step):
  """Nats of each token, of a few hundred texts at most: so many are read whatever is asked."""
  most, count = len(ORDERS) * V**L, len(tokens)
  settle_step = np.broadcast_to(np.asarray(settle_step, np.int32), tokens.shape)
  tokens, settle_step = (np.resize(x, (most, L)) for x in (tokens, settle_step))
  return np.asarray(_order_nats(denoise, params(), tokens, settle_step), np.float64)[:count]


def test_in_the_order_of_the_text_queries_are_an_autoregressive_model():
  """Shifted, groups of one: the same parameters, read by a causal model, say the same."""
  causal = make('shifted', window='causal', context='causal')
  tokens = texts()
  theirs = read(causal, tokens)
  ours = logits_of(make('shifted'), tokens, ORDERS['identity'])
  np.testing.assert_allclose(ours, theirs, atol=2e-5)
  nats = nats_of(make('shifted'), tokens, ORDERS['identity'] + 1)
  np.testing.assert_allclose(nats, _reading_nats(causal, params(), tokens), atol=2e-5)


_reading_nats = jax.jit(reading_nats, static_argnums=0)


@functools.partial(jax.jit, static_argnums=0)
def _context(alignment, tokens):
  """Logits of content rows in the order of the text, and of a causal model that is shown them."""
  denoise, start = make(alignment), int(alignment == 'shifted')
  canvas, sigma = jnp.full_like(tokens, V), jnp.zeros(tokens.shape)
  layout = layouts.two_stream(denoise.rules, tokens, canvas, sigma, jnp.arange(1, L + 1))
  features, _ = denoise._blocks(params(), layout)
  content = denoise.project(params(), jax.tree.map(lambda x: x[:, L:], features))
  shown = jnp.pad(tokens, [(0, 0), (1, 0)])[:, 1 - start :]
  slots = shown.shape[1]
  causal = make('shifted', autoregressive(slots), 'causal', 'causal')
  mask = layouts.masks.from_regions(
    jnp.zeros(shown.shape, jnp.int8), jnp.arange(slots), context='causal', sight=causal.rules.sight
  )
  rows, _ = causal._blocks(
    params(), layouts.Layout(shown, jnp.zeros(shown.shape), jnp.arange(slots), mask, slots)
  )
  return content, causal.project(params(), rows)


@BOTH
def test_in_the_order_of_the_text_the_context_is_a_causal_model(alignment):
  """What content rows say at the end."""
  content, theirs = _context(alignment, texts())
  np.testing.assert_allclose(content, theirs, atol=2e-5)


@BOTH
def test_a_query_depends_on_earlier_groups_and_on_nothing_else(alignment):
  """Bit for bit: not on its own token, its own group or what comes after."""
  denoise, tokens = make(alignment), texts()
  for name, order in ORDERS.items():
    before = logits_of(denoise, tokens, order)
    for j in range(L):
      other = tokens.copy()
      other[:, j] = (other[:, j] + 1) % V
      after = logits_of(denoise, other, order)
      same = (before == after).all(axis=(0, 2))
      moved = np.abs(before - after).max(axis=(0, 2))
      np.testing.assert_array_equal(same, order <= order[j], err_msg=f'{name}, token {j}')
      assert (moved[order > order[j]] > 1e-6).all(), (name, j)


@BOTH
def test_the_law_of_every_order_sums_to_one(alignment):
  every = np.tile(worlds.sequences(V, L), (len(ORDERS), 1))
  orders = np.repeat(np.stack(list(ORDERS.values())), V**L, axis=0)
  nats = nats_of(make(alignment), every, orders + 1)
  total = np.exp(-nats.sum(axis=1)).reshape(len(ORDERS), V**L).sum(axis=1)
  np.testing.assert_allclose(total, 1.0, atol=1e-5, err_msg=str(list(ORDERS)))


@BOTH
def test_two_groups_are_a_masked_language_model_whose_masks_are_not_seen(alignment):
  """Two streams, and one pass over the text with masks, whose keys and values nothing looks at."""
  denoise, tokens, order = make(alignment), texts(), np.array([0, 1, 0, 1, 1])
  hidden = order == 1
  regions = np.where(hidden, Region.ACTIVE, Region.SETTLED).astype(np.int8)
  canvas = np.where(hidden, V, tokens).astype(np.int32)
  theirs = predict(denoise, params(), canvas, regions, order + 1)
  ours = logits_of(denoise, tokens, order)
  np.testing.assert_allclose(ours[:, hidden], theirs[:, hidden], atol=2e-5)


@BOTH
def test_only_the_order_of_groups_counts_and_each_example_has_its_own(alignment):
  denoise, tokens = make(alignment), texts()
  orders = np.resize(np.stack(list(ORDERS.values())), (B, L))
  together = logits_of(denoise, tokens, orders)
  np.testing.assert_array_equal(together, logits_of(denoise, tokens, 7 * orders + 2))
  for row, (name, order) in enumerate(ORDERS.items()):
    alone = logits_of(denoise, tokens, order)[row :: len(ORDERS)]
    np.testing.assert_allclose(together[row :: len(ORDERS)], alone, atol=1e-5, err_msg=name)


def test_storage_order_does_not_matter():
  """Rows permuted with their positions and groups: predictions permuted."""
  denoise, tokens = make('aligned'), texts()

  @jax.jit
  def stored(rows):
    canvas, sigma = jnp.full_like(tokens, V), jnp.zeros(tokens.shape)
    settle_step = jnp.broadcast_to(ORDERS['mixed'] + 1, tokens.shape)
    layout = layouts.two_stream(denoise.rules, jnp.asarray(tokens), canvas, sigma, settle_step)
    names = 'rank', 'reach', 'tile', 'position'
    mask = layout.mask.replace(**{name: getattr(layout.mask, name)[:, rows] for name in names})
    moved = layout._replace(
      tokens=layout.tokens[:, rows],
      sigma=layout.sigma[:, rows],
      positions=layout.positions[rows],
      mask=mask,
    )
    return denoise._run(params(), moved, None)

  place = np.array([4, 2, 0, 1, 3])
  ours, theirs = stored(np.concatenate([place, L + place])), stored(np.arange(2 * L))
  np.testing.assert_allclose(ours, theirs[:, place], atol=1e-5)
  np.testing.assert_allclose(theirs, logits_of(denoise, tokens, ORDERS['mixed']), atol=1e-5)


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


@functools.partial(jax.jit, static_argnums=0)
def keys_of(n):
  return jax.random.split(jax.random.key(2), n)


N = 2000
BLANK, FREE = np.zeros((N, L), np.int32), np.zeros((N, L), bool)
SCHEDULES = {name: any_order(order) for name, order in ORDERS.items()}
SCHEDULES |= {'shuffled': shuffled(L, 2, seed=1), 'strided': strided(L, 2)}
# In either alignment groups of several sizes and all at once; in one of them groups of one, and
# those in the order of the text, in which another test compares with an autoregressive model.
KEPT = {('aligned', name) for name in ('mixed', 'together', 'strided')}
KEPT |= {('shifted', name) for name in ('identity', 'permuted', 'mixed', 'together', 'shuffled')}
CASES = [
  pytest.param(
    *(alignment, schedule),
    id=f'{alignment}-{name}',
    marks=() if (alignment, name) in KEPT else pytest.mark.full,
  )
  for alignment in ('aligned', 'shifted')
  for name, schedule in SCHEDULES.items()
]


@pytest.mark.parametrize('alignment, schedule', CASES)
def test_generation_follows_the_likelihood_with_a_cache_and_without(alignment, schedule):
  denoise = make(alignment, schedule)
  arguments = denoise, params(), noise.absorbing(V), Ancestral(), schedule, BLANK, FREE
  results = [run(*arguments, keys_of(N))]
  if denoise.is_cacheable:
    results.append(run(*arguments, keys_of(N), use_cache=True))
    assert (np.asarray(results[0].tokens) == np.asarray(results[1].tokens)).mean() > 0.999
  nats = nats_of(make(alignment), worlds.sequences(V, L), schedule.settle_step)
  law = np.exp(-nats.sum(axis=1))
  for result in results:
    assert int(result.network_calls) == schedule.num_steps
    share = np.bincount(worlds.index_of(np.asarray(result.tokens), V), minlength=V**L) / N
    expected = np.sqrt(law * (1 - law) / N)
    assert np.abs(share - law).sum() < 1.2 * np.sqrt(2 / np.pi) * expected.sum()


@pytest.mark.parametrize('use_cache', [False, True])
def test_groups_of_one_in_the_order_of_the_text_write_what_an_autoregressive_model_does(use_cache):
  arguments = params(), noise.absorbing(V), Ancestral(), autoregressive(L), BLANK, FREE
  ours, theirs = (
    np.asarray(run(denoise, *arguments, keys_of(N), use_cache=use_cache).tokens)
    for denoise in (make('shifted'), make('shifted', window='causal', context='causal'))
  )
  assert (ours == theirs).all(axis=1).mean() > 0.99  # but for rounding at the edge of a draw
  assert len(np.unique(ours, axis=0)) > 20


@BOTH
def test_what_is_given_is_kept_and_seen_by_all_groups_wherever_it_stands(alignment):
  """Tokens of the first and of the last group are given: the others follow the law that
  `order_nats` has of them when these come first, with a cache and without."""
  order, free = np.array([2, 0, 1, 0, 2]), np.array([1, 2])
  schedule = any_order(order)
  denoise = make(alignment, schedule)
  tokens, given = np.resize(texts(1), (N, L)), np.ones((N, L), bool)
  given[:, free] = False
  arguments = denoise, params(), noise.absorbing(V), Ancestral(), schedule, tokens, given
  every = np.resize(tokens, (V**2, L))
  every[:, free] = worlds.sequences(V, 2)
  nats = nats_of(make(alignment), every, np.where(given[0], 1, order + 2))
  law = np.exp(-nats[:, free].sum(axis=1))
  np.testing.assert_allclose(law.sum(), 1.0, atol=1e-5)
  results = [run(*arguments, keys_of(N), use_cache=use) for use in (False, True)]
  uncached, cached = (np.asarray(result.tokens) for result in results)
  assert (uncached == cached).mean() > 0.999
  for result, written in zip(results, (uncached, cached), strict=True):
    np.testing.assert_array_equal(written[given], tokens[given])
    share = np.bincount(worlds.index_of(written[:, free], V), minlength=V**2) / N
    assert (np.abs(share - law) < 5 * np.sqrt(law * (1 - law) / N)).all()
    assert int(result.network_calls) == 2


# Objective.


STAGES = ((0.0, 1, 0.0, 0.0), (1 / 3, 4, 0.0, 0.0), (2 / 3, 4, 1.0, 0.5))
OBJECTIVE = AnyOrder(30, STAGES)


@functools.partial(jax.jit, static_argnums=(0, 1))
def examples_of(batch=B, length=L, step=0):
  draw = np.random.default_rng(1)
  return Examples(
    tokens=jnp.asarray(draw.integers(0, V, (batch, length)), jnp.int32),
    counted=jnp.asarray(draw.random((batch, length)) < 0.8),
    uniform=jnp.asarray(draw.random(batch), jnp.float32),
    keys=jax.random.split(jax.random.key(3), batch),
    step=step,
  )


_drawn = jax.jit(jax.vmap(_draw, (0, 0, None, None, None)))


def drawn(examples, width, share, given=0.0):
  settings = np.int32(width), np.float32(share), np.float32(given)
  return [np.asarray(x) for x in _drawn(examples.keys, examples.counted, *settings)]


def many():
  """Enough of them to count what is drawn; long enough for groups of every width."""
  return examples_of(4000, 9)


def test_groups_are_of_the_width_drawn_and_what_is_given_comes_first():
  counts = np.asarray(many().counted)
  for width in (1, 2, 4):
    groups, counted = drawn(many(), width, 1.0)
    np.testing.assert_array_equal(counted, counts)
    assert (groups[~counted] == 1).all() and (groups[counted] >= 2).all()
    largest = []
    for row, free in zip(groups, counted, strict=True):
      _, sizes = np.unique(row[free], return_counts=True)
      assert (sizes[:-1] == sizes.max(initial=0)).all()  # all but the last group are full
      largest.append(sizes.max(initial=0))
    assert max(largest) == width
    assert {*range(1, width + 1)} <= set(largest)


def test_as_many_orders_are_shuffled_as_asked():
  for share in (0.0, 0.5, 1.0):
    groups, counted = drawn(many(), 1, share)
    in_order = np.mean(
      [(np.diff(row[free]) > 0).all() for row, free in zip(groups, counted, strict=True)]
    )
    np.testing.assert_allclose(in_order, 1.0 - share, atol=0.04)


def test_given_positions_are_as_many_as_asked():
  _, counted = drawn(many(), 2, 1.0, 0.6)
  share = 1.0 - counted[np.asarray(many().counted)].mean()
  np.testing.assert_allclose(share, 0.3, atol=0.02)


TRACED = []


@functools.partial(jax.jit, static_argnums=0)
def loss_of(denoise, weights, examples):
  TRACED.append(denoise)
  return OBJECTIVE(denoise, weights, examples, None)


def test_the_first_stage_is_autoregression():
  """Every token is trained, and given those to its left alone: what a causal model reads."""
  whole = examples_of()._replace(counted=np.ones((B, L), bool))
  loss = loss_of(make('shifted'), params(), whole)
  causal = make('shifted', window='causal', context='causal')
  nats = _reading_nats(causal, params(), whole.tokens)
  np.testing.assert_allclose(loss, nats, atol=2e-5)


def test_stages_are_those_of_the_config():
  assert a3_config.get_config('tiny').objective.stages == STAGES


def test_stages_follow_the_step_without_compiling_again():
  """What is given, or drawn to be, weighs nothing."""
  denoise = make('shifted')
  first, second, third = (1, 0.0, 0.0), (4, 0.0, 0.0), (4, 1.0, 0.5)
  for step, stage in {0: first, 9: first, 10: second, 20: third}.items():
    groups, counted = drawn(examples_of(), *stage)
    nats = nats_of(denoise, np.asarray(examples_of().tokens), groups)
    loss = np.asarray(loss_of(denoise, params(), examples_of(step=step)))
    np.testing.assert_allclose(loss, np.where(counted, nats, 0.0), atol=1e-4)
    np.testing.assert_array_equal(loss == 0.0, ~counted)
  assert len(set(TRACED)) == len(TRACED)


def test_loss_of_equal_logits_is_the_log_of_their_number():
  zeros = jax.tree.map(np.zeros_like, params())
  for step in (0, 10, 20):
    loss = np.asarray(loss_of(make('shifted'), zeros, examples_of(step=step)))
    np.testing.assert_allclose(loss[loss != 0.0], np.log(V), rtol=1e-5)
    assert (loss != 0.0).sum() > 100


def test_masked_rank_counts_among_the_counted():
  place, counted = np.array([3, 0, 4, 1, 2]), np.array([1, 0, 1, 1, 0], bool)
  rank = np.asarray(jax.jit(masked_rank)(place, counted))
  np.testing.assert_array_equal(rank[[0, 2, 3]], [1, 2, 0])


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
    order = settle_step if keeps_order else np.full(canvas.shape, num_steps)
    logits = predict(denoise, params(), canvas, regions, order)
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


@functools.partial(jax.jit, static_argnums=1)
def uniforms_of(keys, num_steps):
  """float32[S, B, 2, L], what the loop draws."""
  draw = lambda key, s: jax.random.uniform(rng.stream(key, 'step', s), (2, L))  # noqa: E731
  every = jax.vmap(jax.vmap(draw, (0, None)), (None, 0))
  return every(keys, jnp.arange(num_steps))


ORDERED = {('aligned', 'entropy', 'in order'), ('shifted', 'random', 'in order')}
ORDERED |= {('aligned', 'confidence', 'all'), ('shifted', 'entropy', 'all')}


@pytest.mark.parametrize(
  'alignment, score, order',
  [
    pytest.param(*case, marks=() if case in ORDERED else pytest.mark.full)
    for case in itertools.product(
      ('aligned', 'shifted'), ('random', 'confidence', 'entropy'), ('all', 'in order')
    )
  ],
)
def test_the_surest_masks_are_revealed_as_many_at_every_step(alignment, score, order):
  num_steps, keeps_order = 3, order == 'in order'
  schedule = flat(L, num_steps)
  denoise = make(alignment, schedule)
  given = np.random.default_rng(0).random((B, L)) < 0.3
  tokens = texts()
  stepper = Ranked(score, keeps_order)
  arguments = denoise, params(), noise.absorbing(V), stepper, schedule, tokens, given
  result = run(*arguments, keys_of(B), trace=9)
  uniforms = np.asarray(uniforms_of(keys_of(B), num_steps))
  start = np.where(given, tokens, V).astype(np.int32)
  expected, log_prob, order = ranked_reference(
    denoise, start, given, uniforms, score, num_steps, keeps_order
  )
  if keeps_order:  # the law that it draws from is the one that is measured
    nats = nats_of(make(alignment), expected, order)
    np.testing.assert_allclose(nats[~given], -log_prob[~given], atol=1e-4)
    cached = run(*arguments, keys_of(B), use_cache=True)
    same = (np.asarray(cached.tokens) == np.asarray(result.tokens)).all(axis=1)
    assert same.mean() > 0.95  # ties of rounding, after which all is other
    np.testing.assert_array_equal(cached.network_calls, result.network_calls)
  same = (np.asarray(result.tokens) == expected).all(axis=1)
  assert same.mean() > 0.95  # ties of rounding
  np.testing.assert_array_equal(np.asarray(result.tokens)[given], tokens[given])
  free = (~given).sum(axis=1)
  for s, canvas in enumerate(np.asarray(result.trace)):
    left = np.floor(free * (num_steps - s - 1) / num_steps + 1e-4)
    np.testing.assert_array_equal((canvas == V).sum(axis=1), left)


@functools.partial(jax.jit, static_argnums=0)
def _extend(denoise, weights, cache, canvas, settle_step, step):
  """Logits of the whole canvas at a step, and the cache of what settled before it."""
  features, entries = denoise.extend(
    weights,
    cache,
    canvas,
    sigma=jnp.zeros(canvas.shape),
    window=jnp.arange(L),
    step=step,
    cached_step=step - 1,
    settle_step=settle_step,
    num_new=L + 1,
  )
  return denoise.project(weights, features), cache.write(entries)


@BOTH
def test_kept_order_gives_the_same_logits_cached_and_uncached(alignment):
  """Every example reveals its own positions, none at all at some steps."""
  denoise, num_steps = make(alignment, flat(L, 3)), 3
  tokens, draw = texts(), np.random.default_rng(1)
  order = draw.integers(0, num_steps + 1, (B, L))
  cache = denoise.empty_cache(B, L)
  for step in range(num_steps):
    is_mask = order > step
    canvas = np.where(is_mask, V, tokens).astype(np.int32)
    settle_step = np.where(is_mask, num_steps + 1, order)
    cached, cache = _extend(denoise, params(), cache, canvas, settle_step, step)
    logits = predict(denoise, params(), canvas, is_mask.astype(np.int8), settle_step)
    np.testing.assert_allclose(cached[is_mask], logits[is_mask], atol=2e-5)


def test_ranked_in_one_step_draws_everything_at_once():
  schedule = flat(L, 1)
  arguments = make('aligned', schedule), params(), noise.absorbing(V)
  once, groups = (
    run(*arguments, stepper, schedule, BLANK, FREE, keys_of(N)).tokens
    for stepper in (Ranked('confidence'), Ancestral())
  )
  np.testing.assert_array_equal(once, groups)


@pytest.mark.parametrize('score', ['confidence', pytest.param('entropy', marks=pytest.mark.full)])
def test_what_is_surest_does_not_depend_on_the_temperature(score):
  """At temperature 0 every draw is sure: the model's own law says where to begin, behind each of
  the tokens that may come first."""
  schedule = flat(L, L)
  denoise = make('aligned', schedule)
  tokens = np.resize(np.repeat(np.arange(V, dtype=np.int32), L), (B, L))
  given = np.zeros((B, L), bool)
  given[:, 0] = True
  arguments = denoise, params(), noise.absorbing(V), Ranked(score), schedule, tokens, given
  cold = run(*arguments, keys_of(B), controls=Controls(temperature=0.0))
  canvas, regions = np.where(given, tokens, V).astype(np.int32), (~given).astype(np.int8)
  logits = predict(denoise, params(), canvas, regions, np.full((B, L), L))
  law = worlds.softmax(np.asarray(logits, np.float64))[:, 1:]
  sure = law.max(axis=-1) if score == 'confidence' else (law * np.log(law)).sum(axis=-1)
  first = sure.argmax(axis=1)
  assert first.any()  # not from left to right
  revealed = np.asarray(cold.reveal_step)[:, 1:]
  np.testing.assert_array_equal(np.where(revealed < 0, L, revealed).argmin(axis=1), first)
  best = np.take_along_axis(law, first[:, None, None], axis=1).argmax(axis=-1)[:, 0]
  np.testing.assert_array_equal(np.asarray(cold.tokens)[np.arange(B), 1 + first], best)


def test_ranked_refuses_another_score():
  with pytest.raises(ValueError, match='random, confidence, entropy'):
    Ranked('luck')
