"""Latent refinement: noise, segments, steps, guidance, the objective, and the refiner itself."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from ml_collections import ConfigDict

from ardiff_jax import mesh as mesh_lib
from ardiff_jax import report, rng, workdir
from ardiff_jax.errors import UserError
from ardiff_jax.hyperschedules import block, flat
from ardiff_jax.models import latents
from ardiff_jax.models.latents import LatentDenoiser, LatentNetwork
from ardiff_jax.models.transformer import TransformerConfig
from ardiff_jax.objectives import latents as objective_lib
from ardiff_jax.objectives.latents import LatentDiffusion
from ardiff_jax.objectives.likelihood import Examples
from ardiff_jax.sampling import latents as sampling
from tests.commands import refuse, succeed

V, L, E = 7, 7, 8
EOS = 0
CONFIG = TransformerConfig(V, model_dim=16, num_layers=2, num_heads=2, conditioning='adaln')
DENOISE = LatentDenoiser(LatentNetwork(CONFIG, E), EOS)
DRAFT = '3 plus 4 is 7.'


@functools.cache
def params():
  """Random, and large enough that everything matters."""
  return shaken(nn.unbox(DENOISE.init(jax.random.key(0), L)))


def shaken(tree):
  keys = iter(jax.random.split(jax.random.key(1), len(jax.tree.leaves(tree))))
  return jax.tree.map(lambda x: x + 0.2 * jax.random.normal(next(keys), x.shape), tree)


def canvases(batch=3):
  """A guidance of one token and its ends, a prompt of one, and three tokens to refine."""
  tokens = np.random.default_rng(0).integers(1, V, (batch, L)).astype(np.int32)
  tokens[:, 1:3] = EOS
  return jnp.asarray(tokens), jnp.broadcast_to(jnp.arange(L) < 4, tokens.shape)


def keys(batch=3, seed=2):
  return jax.random.split(jax.random.key(seed), batch)


def refine(schedule, tokens=None, given=None, seeds=None, **settings):
  whole, leading = canvases()
  tokens, given = whole if tokens is None else tokens, leading if given is None else given
  seeds = keys(len(tokens)) if seeds is None else seeds
  return sampling.refine(DENOISE, params(), schedule, tokens, given, seeds, **settings)


def test_signal_is_the_cosine_schedule_and_preserves_variance():
  t = jnp.linspace(0.0, 1.0, 101)
  alpha, sigma = latents.signal(t)
  np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)
  middle = slice(1, 100)
  np.testing.assert_allclose(alpha[middle], np.cos(0.5 * np.pi * t[middle]), atol=1e-3)
  ends = np.log(np.square(np.asarray(alpha / sigma, np.float64)))[[0, -1]]
  np.testing.assert_allclose(ends, [15.0, -15.0], atol=1e-2)


def test_latents_have_unit_variance_whatever_the_table():
  z = DENOISE.encode(params(), jnp.arange(V)[None])
  assert z.shape == (1, V, E) and z.dtype == jnp.float32
  np.testing.assert_allclose(jnp.square(z).mean(axis=-1), 1.0, rtol=1e-5)


def test_segments_are_guidance_up_to_its_ends_prompt_and_target():
  rows = [
    ([3, EOS, EOS, 5, 4, 6], [1, 1, 1, 1, 0, 1], [2, 2, 2, 1, 0, 1]),
    ([3, EOS, 4, 5, EOS, EOS], [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]),  # an end in the prompt
    ([EOS, EOS, 4, EOS, EOS, 5], [1, 1, 1, 1, 1, 0], [2, 2, 1, 1, 1, 0]),
    ([3, 2, EOS, EOS, 2, 5], [1, 1, 0, 1, 0, 0], [1, 1, 0, 1, 0, 0]),
  ]
  tokens, given, expected = (jnp.array(x) for x in zip(*rows, strict=True))
  np.testing.assert_array_equal(DENOISE.segments(tokens, given == 1), expected)


def look(tokens, segment, z, time=0.5, weights=None):
  at = jnp.broadcast_to(jnp.asarray(time, jnp.float32), tokens.shape)
  weights = params() if weights is None else weights
  return DENOISE.estimate(weights, tokens, z, jnp.zeros_like(z), at, segment)


def test_estimate_sees_what_is_given_its_latents_and_times_and_nothing_hidden():
  tokens, given = canvases()
  segment = DENOISE.segments(tokens, given)
  z = jax.random.normal(jax.random.key(3), (*tokens.shape, E))
  first = look(tokens, segment, z)
  assert first.shape == z.shape and first.dtype == jnp.float32
  target = given[..., None]
  other = (tokens % (V - 1)) + 1  # other tokens everywhere, and no end
  differs = lambda found: float(jnp.where(target, 0.0, jnp.abs(found - first)).max())  # noqa: E731
  assert differs(look(jnp.where(given, tokens, other), segment, z)) == 0.0  # targets by latents
  assert differs(look(jnp.where(given, other, tokens), segment, z)) > 1e-3
  assert differs(look(tokens, segment, jnp.where(target, z + 1.0, z))) == 0.0
  assert differs(look(tokens, segment, z + 1.0)) > 1e-3
  assert differs(look(tokens, segment, z, jnp.where(given, 0.9, 0.5))) == 0.0
  assert differs(look(tokens, segment, z, 0.6)) > 1e-4
  hidden = jnp.where(given, latents.HIDDEN, segment)
  alone, again = (look(x, hidden, z) for x in (tokens, jnp.where(given, other, tokens)))
  np.testing.assert_array_equal(alone, again)
  before = jax.random.normal(jax.random.key(4), z.shape)
  at = jnp.full(tokens.shape, 0.5)
  assert differs(DENOISE.estimate(params(), tokens, z, before, at, segment)) > 1e-3


@pytest.mark.parametrize('vocab_size', [V, 50_257])
def test_devices_split_the_table_whatever_the_vocabulary(vocab_size):
  many = LatentDenoiser(
    LatentNetwork(dataclasses.replace(CONFIG, vocab_size=vocab_size, num_layers=1), E), EOS
  )
  mesh = mesh_lib.make_mesh(ConfigDict({'data': 2, 'tensor': 2, 'fsdp': 2}))
  boxed = jax.eval_shape(lambda: many.init(jax.random.key(0), L))
  make = lambda: nn.unbox(many.init(jax.random.key(0), L))  # noqa: E731
  with mesh_lib.use(mesh):
    split = jax.jit(make, out_shardings=mesh_lib.shardings(mesh, boxed))()
  rows = split['params']['table'].sharding.shard_shape(split['params']['table'].shape)[0]
  assert vocab_size <= 2 * rows < vocab_size + 128
  tokens = jnp.arange(4 * L).reshape(4, L) % vocab_size

  @jax.jit
  def there_and_back(weights, tokens):
    return many.round(weights, many.encode(weights, tokens))

  with mesh_lib.use(mesh):
    logits = there_and_back(split, mesh_lib.place_whole(mesh, tokens))
  assert logits.shape == (4, L, vocab_size)
  np.testing.assert_array_equal(logits.argmax(axis=-1), tokens)
  np.testing.assert_allclose(logits, there_and_back(jax.device_get(split), tokens), atol=1e-5)


# Steps.


def test_the_last_step_is_the_estimate_itself():
  z, found, noise = jax.random.normal(jax.random.key(5), (3, 2, 4, E))
  for kind in sampling.KINDS:
    new = sampling.step_to(z, found, jnp.float32(0.3), jnp.float32(0.0), noise, kind)
    np.testing.assert_array_equal(new, found)


def test_a_step_keeps_the_noise_of_ddim_and_draws_the_posterior_of_ancestral():
  """DDIM from the true noise lands on its curve; ancestral steps have the law of the forward."""
  n, now, then = 200_000, jnp.float32(0.6), jnp.float32(0.35)
  noise = jax.random.normal(jax.random.key(6), (2, n, 1))
  z_0 = 0.7
  (alpha, sigma), (alpha_s, sigma_s) = latents.signal(now), latents.signal(then)
  z_t = alpha * z_0 + sigma * noise[0]
  found = jnp.full_like(z_t, z_0)
  curve = sampling.step_to(z_t, found, now, then, noise[1], 'ddim')
  np.testing.assert_allclose(curve, alpha_s * z_0 + sigma_s * noise[0], atol=1e-5)
  drawn = sampling.step_to(z_t, found, now, then, noise[1], 'ancestral')
  np.testing.assert_allclose(drawn.mean(), alpha_s * z_0, atol=0.01)
  np.testing.assert_allclose(drawn.std(), sigma_s, atol=0.01)
  joint = np.cov(np.asarray(z_t)[:, 0], np.asarray(drawn)[:, 0])[0, 1]
  np.testing.assert_allclose(joint, alpha / alpha_s * sigma_s**2, atol=0.01)


def reference(schedule, kind, prompt_scale, guidance_scale, clamp):
  """The loop in numpy, of flat or staggered rows alike."""
  tokens, given = canvases()
  segment = np.asarray(DENOISE.segments(tokens, given))
  time = np.asarray(schedule.levels) / schedule.num_levels * schedule.last_time
  noise = lambda name, step: np.stack(  # noqa: E731
    [jax.random.normal(rng.stream(key, name, step), (L, E)) for key in keys()]
  )
  z_0 = np.asarray(DENOISE.encode(params(), tokens))
  alpha, sigma = (np.asarray(x)[None, :, None] for x in latents.signal(jnp.asarray(time[0])))
  fixed = np.asarray(given)[..., None]
  z = np.where(fixed, z_0, alpha * z_0 + sigma * noise('start', 0))
  before = np.zeros_like(z)
  for s in range(len(time) - 1):
    if not ((time[s] > time[s + 1]) & ~np.asarray(given).all(axis=0)).any():
      continue
    found = []
    for hidden in ([1, 2], [2], []):
      shown = np.where(np.isin(segment, hidden), latents.HIDDEN, segment)
      at = np.broadcast_to(time[s], tokens.shape).astype(np.float32)
      found.append(
        np.asarray(DENOISE.estimate(params(), tokens, z, before, at, jnp.asarray(shown)))
      )
    neither, one, both = found
    before = neither + prompt_scale * (one - neither) + guidance_scale * (both - one)
    nearest = DENOISE.encode(params(), DENOISE.round(params(), before).argmax(axis=-1))
    is_clamped = (time[s] > 0.0) & (time[s] <= clamp)
    before = np.where(is_clamped[None, :, None], nearest, before)
    now, then = (jnp.asarray(time[s + i], jnp.float32)[None, :, None] for i in (0, 1))
    new = np.asarray(sampling.step_to(z, before, now, then, noise('step', s), kind))
    z = np.where((time[s] > time[s + 1])[None, :, None] & ~fixed, new, z)
  return z


@pytest.mark.parametrize('kind, clamp', [('ddim', 0.0), ('ddim', 0.6), ('ancestral', 0.0)])
@pytest.mark.parametrize('schedule', [flat(L, 4), block(L, 2, 3)], ids=lambda x: x.name)
def test_scan_is_a_numpy_loop(schedule, kind, clamp):
  expected = reference(schedule, kind, 0.5, 2.0, clamp)
  result = refine(schedule, kind=kind, prompt_scale=0.5, guidance_scale=2.0, clamp=clamp)
  np.testing.assert_allclose(result.latents, expected, atol=2e-4)
  tokens, given = canvases()
  assert result.tokens.dtype == jnp.int32
  np.testing.assert_array_equal(result.tokens[given], tokens[given])
  logits = DENOISE.round(params(), result.latents)
  best = np.asarray(logits.argmax(axis=-1))
  np.testing.assert_array_equal(np.asarray(result.tokens)[~given], best[~given])
  at = lambda x: np.take_along_axis(np.asarray(logits), np.asarray(x)[..., None], axis=-1)[..., 0]  # noqa: E731
  np.testing.assert_allclose(result.gain, at(result.tokens) - at(tokens), atol=1e-4)


def test_scales_of_one_are_the_plain_condition_and_of_nought_none():
  schedule = flat(L, 3)
  plain = refine(schedule, looks=(False, False, True))
  np.testing.assert_allclose(plain.latents, refine(schedule).latents, atol=1e-4)
  assert (plain.network_calls, refine(schedule).network_calls) == (3, 9)
  tokens, given = canvases()
  other = jnp.where(given & (tokens != EOS), tokens % (V - 1) + 1, tokens)
  free = [
    refine(schedule, tokens=x, prompt_scale=0.0, guidance_scale=0.0).latents[:, 4:]
    for x in (tokens, other)
  ]
  np.testing.assert_array_equal(*free)
  asked = [refine(schedule, tokens=x).latents[:, 4:] for x in (tokens, other)]
  assert jnp.abs(asked[0] - asked[1]).max() > 1e-3
  prompted = refine(schedule, prompt_scale=1.0, guidance_scale=0.0).latents[:, 4:]
  assert jnp.abs(prompted - asked[0]).max() > 1e-4 and jnp.abs(prompted - free[0]).max() > 1e-4


@pytest.mark.parametrize(
  'scales, looks',
  [
    ((1.0, 3.0), (False, True, True)),  # guidance alone is pulled at
    ((3.0, 3.0), (True, False, True)),
    ((2.0, 0.0), (True, True, False)),
    ((1.0, 0.0), (False, True, False)),
  ],
)
def test_what_cancels_is_not_looked_at(scales, looks):
  assert tuple(weight != 0.0 for weight in sampling.mixture(*scales)) == looks
  scales = dict(zip(('prompt_scale', 'guidance_scale'), scales, strict=True))
  few, all_three = (refine(flat(L, 3), **scales, **x) for x in (dict(looks=looks), {}))
  np.testing.assert_allclose(few.latents, all_three.latents, atol=2e-4)
  assert few.network_calls == 3 * sum(looks)


def test_clamped_estimates_are_latents_of_tokens():
  free, clamped = (refine(flat(L, 3), clamp=clamp) for clamp in (0.0, 1.0))
  _, given = canvases()
  for result, is_near in ((free, False), (clamped, True)):
    nearest = DENOISE.encode(params(), result.tokens)
    assert (float(jnp.abs(result.latents - nearest)[~given].max()) < 1e-5) == is_near


def test_a_text_depends_on_its_own_key_alone():
  tokens, given = canvases()
  whole = refine(flat(L, 3), kind='ancestral').latents
  part = refine(flat(L, 3), tokens[1:], given[1:], keys()[1:], kind='ancestral').latents
  np.testing.assert_allclose(whole[1:], part, atol=1e-5)
  other = refine(flat(L, 3), seeds=keys(seed=9), kind='ancestral').latents
  assert jnp.abs(other - whole)[:, 4:].max() > 1e-2


def test_a_text_that_rests_does_not_depend_on_neighbours_that_move():
  """Of four blocks the first text has something to refine in the last two alone."""
  tokens, _ = canvases(2)
  given = jnp.stack([jnp.arange(L) < 5, jnp.arange(L) < 1])
  schedule = block(L, 2, 3)
  together = refine(schedule, tokens, given, keys(2))
  for i, steps in enumerate((6, 12)):
    alone = refine(schedule, tokens[i : i + 1], given[i : i + 1], keys(2)[i : i + 1])
    np.testing.assert_allclose(together.latents[i], alone.latents[0], atol=1e-5)
    np.testing.assert_array_equal(together.tokens[i], alone.tokens[0])
    assert alone.network_calls == 3 * steps


class Nearest(LatentDenoiser):
  """Estimates the nearest latent."""

  def estimate(self, params, tokens, z, before, time, segment, dropout_key=None):
    return self.encode(params, self.round(params, z).argmax(axis=-1))


def test_drift_grows_with_the_noise():
  tokens, given = canvases(200)
  shares = []
  for last_time in (0.1, 0.5, 0.7, 1.0):
    schedule = dataclasses.replace(flat(L, 4), last_time=last_time)
    denoise = Nearest(DENOISE.network, EOS)
    arguments = params(), schedule, tokens, given, keys(200)
    result = sampling.refine(denoise, *arguments, looks=(False, False, True))
    shares.append(float((result.tokens != tokens)[~given].mean()))
  assert shares[0] == 0.0 and sorted(shares) == shares and shares[1] < shares[2] < shares[3]
  np.testing.assert_allclose(shares[3], 1.0 - 1.0 / V, atol=0.06)


def test_unknown_kind_is_refused():
  with pytest.raises(ValueError, match='ddim, ancestral'):
    refine(flat(L, 2), kind='euler')


# The objective.


def examples(batch=64):
  tokens, given = canvases(batch)
  uniform = (jnp.arange(batch) + 0.5) / batch
  draft = jnp.where(jnp.arange(L) % 2 == 0, tokens, (tokens + 1) % V)
  return Examples(tokens, ~given, uniform, keys(batch), draft=draft)


def test_objective_is_the_weighted_error_and_the_reading():
  objective, schedule, few = LatentDiffusion(E, most_weight=3.0), flat(L, 10), examples()
  loss = objective(DENOISE, params(), few, schedule)
  draws = jax.vmap(functools.partial(objective_lib._draw, shape=(L, E)))(few.keys)
  time = jnp.broadcast_to(1.0 - few.uniform[:, None], few.tokens.shape)
  np.testing.assert_array_equal(loss == 0.0, ~few.counted)
  shown = jnp.where(few.counted, few.draft, few.tokens)
  z_0, draft = (DENOISE.encode(params(), x) for x in (few.tokens, shown))
  alpha, sigma = (x[..., None] for x in latents.signal(time))
  z_t = alpha * draft + sigma * draws['noise']
  segment = np.asarray(DENOISE.segments(few.tokens, ~few.counted))
  hide = np.asarray(draws['prompt'] < 0.1)[:, None] & (segment == latents.PROMPT)
  hide |= np.asarray(draws['guidance'] < 0.1)[:, None] & (segment == latents.GUIDANCE)
  assert 0 < hide.sum() < hide.size / 4
  segment = jnp.asarray(np.where(hide, latents.HIDDEN, segment))
  found = DENOISE.estimate(params(), few.tokens, z_t, jnp.zeros_like(z_t), time, segment)
  before = jnp.where((draws['coin'] < 0.5)[:, None, None], found, 0.0)
  found = DENOISE.estimate(params(), few.tokens, z_t, before, time, segment)
  weight = np.clip(np.square(alpha / sigma)[..., 0], 1.0, 3.0)
  log_law = np.asarray(jax.nn.log_softmax(DENOISE.round(params(), found)))
  reading = -np.take_along_axis(log_law, np.asarray(few.tokens)[..., None], axis=-1)[..., 0]
  expected = weight * np.square(found - z_0).mean(axis=-1) + reading
  np.testing.assert_allclose(loss, np.where(few.counted, expected, 0.0), rtol=1e-3, atol=1e-4)


def test_both_looks_draw_dropout_of_their_own():
  seen = []

  class Watched(LatentDenoiser):
    def estimate(self, *args):
      seen.append(None if args[-1] is None else jax.random.key_data(args[-1]).tolist())
      return super().estimate(*args)

  denoise = Watched(LatentNetwork(dataclasses.replace(CONFIG, dropout=0.5), E), EOS)
  losses = [
    float(LatentDiffusion(E)(denoise, params(), examples(4), flat(L, 10), key).sum())
    for key in (None, jax.random.key(1), jax.random.key(2))
  ]
  assert len(set(losses)) == 3
  assert seen[:2] == [None, None] and len(set(map(tuple, seen[2:]))) == 4


def test_the_table_learns_from_reading_alone_and_enough():
  """Not from what is noised; and of a real vocabulary the gradient does not vanish."""
  few = examples(8)
  grads = []
  for weight in (1.0, 5.0):
    objective = LatentDiffusion(E, most_weight=weight)
    total = lambda weights: objective(DENOISE, weights, few, flat(L, 10)).sum()  # noqa: B023, E731
    grads.append(jax.grad(total)(params())['params'])
  np.testing.assert_allclose(grads[0]['table'], grads[1]['table'], atol=1e-5)
  assert jnp.abs(grads[0]['entry']['kernel'] - grads[1]['entry']['kernel']).max() > 1e-4
  many = LatentDenoiser(LatentNetwork(dataclasses.replace(CONFIG, vocab_size=2048), 32), EOS)
  fresh = nn.unbox(many.init(jax.random.key(0), L))
  fresh = shaken(fresh)
  total = lambda weights: LatentDiffusion(32)(many, weights, few, flat(L, 10)).sum()  # noqa: E731
  assert jnp.abs(jax.grad(total)(fresh)['params']['table']).max() > 1e-3


def test_without_a_draft_the_text_is_noised():
  few = examples(8)
  of = lambda draft: LatentDiffusion(E)(DENOISE, params(), few._replace(draft=draft), flat(L, 10))  # noqa: E731
  np.testing.assert_array_equal(of(None), of(few.tokens))
  assert np.abs(of(None) - of(few.draft)).max() > 0.01


@pytest.mark.parametrize('settings', [dict(latent_dim=0), dict(most_weight=0.5)])
def test_objective_refuses(settings):
  with pytest.raises(ValueError, match='must be'):
    LatentDiffusion(**settings)


# The refiner.


def test_refiner_of_latents_edits_drafts(models):
  model = models('latent_refiner')
  (same,) = model.refine('é ' + DRAFT, strength=0.0)
  assert same.text == 'é ' + DRAFT and same.refiner == 'latent' and same.network_calls == 0
  keep = np.arange(len(DRAFT)) % 2 == 0
  common = dict(prompt='so ', guidance='fix', steps=8)
  (one,) = model.refine(DRAFT, strength=1.0, keep=[keep], **common)
  new, old = np.array(one.token_ids), np.array(one.draft_ids)
  np.testing.assert_array_equal(new[keep], old[keep])
  assert (new[~keep] != old[~keep]).any() and one.network_calls == 8
  again, other = (model.refine(DRAFT, strength=1.0, seed=seed, **common)[0] for seed in (0, 1))
  assert again.text == model.refine(DRAFT, strength=1.0, **common)[0].text != other.text
  (few,) = model.refine(DRAFT, strength=1.0, budget=0.2, **common)
  assert 0 < few.changed <= 0.2 and few.reverted > 0 and few.network_calls == 8
  (rows,) = model.refine(DRAFT, strength=1.0, hyperschedule='block,width=4,num_levels=2')
  assert rows.network_calls == 8  # four blocks of two
  (behind,) = model.refine(
    DRAFT, prompt='so so ', strength=1.0, hyperschedule='block,width=4,num_levels=2'
  )
  assert behind.network_calls == 8  # of five blocks, the first is given
  wild = dataclasses.replace(model, params=shaken(model.params))  # two steps move little
  (plain,) = wild.refine(DRAFT, strength=1.0, **common)
  pulled = [
    wild.refine(DRAFT, strength=1.0, **common, **scales)[0]
    for scales in (
      *(dict(prompt_scale=5.0), dict(guidance_scale=5.0)),
      *(dict(sampler='ancestral'), dict(clamp=0.9)),
    )
  ]
  assert len({plain.text, *(x.text for x in pulled)}) == 5
  assert [x.network_calls for x in pulled] == [24, 16, 8, 8]


@pytest.mark.parametrize(
  'name, settings, message',
  [
    ('latent_refiner', dict(refiner='token'), 'refiner token is not for this model'),
    ('mdlm', dict(refiner='latent'), 'refiner latent is not for this model'),
    ('mdlm', dict(guidance_scale=2.0), 'guidance_scale are settings of refiner latent'),
    ('latent_refiner', dict(temperature=0.5), 'does not know temperature'),
    ('latent_refiner', dict(steps=2, hyperschedule='flat,num_levels=2'), 'give one'),
    ('latent_refiner', dict(steps=0), 'steps must be at least 1, got 0'),
    ('latent_refiner', dict(guidance_scale=float('nan')), 'guidance_scale must be a finite number'),
    ('latent_refiner', dict(prompt_scale=float('inf')), 'prompt_scale must be a finite number'),
    ('latent_refiner', dict(clamp=1.5), r'clamp must be in \[0, 1\], got 1.5'),
    ('mdlm', dict(clamp=0.5), 'clamp are settings of refiner latent'),
    ('latent_refiner', dict(hyperschedule=flat(9, 2)), 'has 9 positions, and the text 14'),
    ('latent_refiner', dict(sampler='acs', strength=0.0), 'must be one of ddim'),
    ('latent_refiner', dict(sampler='acs'), 'must be one of ddim, ancestral'),
  ],
)
def test_what_does_not_go_together_is_refused(models, name, settings, message):
  with pytest.raises(UserError, match=message):
    models(name).refine(DRAFT, **settings)


@pytest.mark.slow
def test_commands_train_a_latent_refiner_and_refine_with_it(models, tmp_path):
  directory = models.directory('latent_refiner')
  page = report.write(directory).read_text()  # without a likelihood
  assert 'latent_diffusion' in page and 'Gaussian noise of latents' in page
  assert 'ardiff_jax.refine --workdir' in page
  assert not any(f'ardiff_jax.{command}' in page for command in ('evaluate', 'sample'))
  records = [x for x in workdir.read_lines(directory / 'metrics.jsonl') if x['split'] == 'valid']
  assert all(x['round_trip'] > 0.999 and 0 < x['latent_error'] < 1.5 for x in records)
  assert all(0.0 <= x['latent_reading'] <= 1.0 for x in records)
  flags = f'--workdir={directory}', f'--draft={DRAFT}', f'--out={tmp_path}/out.jsonl'
  how = '--strength=0.5', '--guidance=fix', '--guidance_scale=2', '--clamp=0.2'
  refined = succeed('refine', *flags, *how)
  (record,) = workdir.read_lines(tmp_path / 'out.jsonl')
  assert refined.stdout == record['text'] + '\n' and record['refiner'] == 'latent'
  for command in ('evaluate', 'sample'):
    assert 'no likelihood' in refuse(command, f'--workdir={directory}').stderr


def test_a_latent_refiner_neither_samples_nor_scores(models):
  model = models('latent_refiner')
  for call in (model.sample, lambda: model.bound('text')):
    with pytest.raises(UserError, match='has no likelihood and no samplers'):
      call()
