"""Latent refinement: noise, segments, steps, guidance, the objective, and the refiner itself."""

import dataclasses
import functools

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
import worlds
from commands import refuse, succeed
from conftest import small_config
from ml_collections import ConfigDict
from untrained import one_device

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
from ardiff_jax.training.loop import train

V, L, E, B = 7, 7, 8, 3
EOS = 0
CONFIG = TransformerConfig(V, model_dim=16, num_layers=2, num_heads=2, conditioning='adaln')
DENOISE = LatentDenoiser(LatentNetwork(CONFIG, E), EOS)
ROWS = flat(L, 4), block(L, 2, 3)
DRAFT = '3 plus 4 is 7.'


@functools.cache
def params(denoise=DENOISE):
  """Random, and large enough that everything matters."""
  return worlds.random_params(lambda: denoise.init(jax.random.key(0), L))


def canvases(batch=B):
  """A guidance of one token and its ends, a prompt of one, and three tokens to refine."""
  tokens = np.random.default_rng(0).integers(1, V, (batch, L)).astype(np.int32)
  tokens[:, 1:3] = EOS
  return tokens, np.broadcast_to(np.arange(L) < 4, tokens.shape)


@functools.partial(jax.jit, static_argnums=0)
def keys(batch=B, seed=2):
  return jax.random.split(jax.random.key(seed), batch)


def normal(seed, *shape):
  return np.random.default_rng(seed).standard_normal(shape).astype(np.float32)


# Compiled once for a shape, so that tests share them.

_encode = jax.jit(lambda weights, tokens: DENOISE.encode(weights, tokens))
_round = jax.jit(lambda weights, z: DENOISE.round(weights, z))
_estimate = jax.jit(lambda weights, *shown: DENOISE.estimate(weights, *shown))
_refine = jax.jit(sampling.refine, static_argnames=('denoise', 'kind', 'looks'))
segments = jax.jit(DENOISE.segments)
signal = jax.jit(latents.signal)
step_to = jax.jit(sampling.step_to, static_argnames='kind')


def encode(tokens):
  return np.asarray(_encode(params(), tokens))


def rounded(z):
  return np.asarray(_round(params(), z))


def estimate(tokens, z, before, time, segment):
  at = np.broadcast_to(np.asarray(time, np.float32), tokens.shape)
  return np.asarray(_estimate(params(), tokens, z, before, at, segment))


def refine(schedule=ROWS[0], tokens=None, given=None, seeds=None, **settings):
  whole, leading = canvases()
  tokens, given = whole if tokens is None else tokens, leading if given is None else given
  seeds = keys(len(tokens)) if seeds is None else seeds
  settings = dict(kind='ddim', prompt_scale=1.0, guidance_scale=1.0, clamp=0.0) | settings
  result = _refine(DENOISE, params(), schedule, tokens, given, seeds, **settings)
  return result._replace(latents=np.asarray(result.latents))


def test_signal_is_the_cosine_schedule_and_preserves_variance():
  t = np.linspace(0.0, 1.0, 101, dtype=np.float32)
  alpha, sigma = (np.asarray(x, np.float64) for x in signal(t))
  np.testing.assert_allclose(alpha**2 + sigma**2, 1.0, atol=1e-6)
  middle = slice(1, 100)
  np.testing.assert_allclose(alpha[middle], np.cos(0.5 * np.pi * t[middle]), atol=1e-3)
  np.testing.assert_allclose(np.log((alpha / sigma) ** 2)[[0, -1]], [15.0, -15.0], atol=1e-2)


def test_latents_have_unit_variance_whatever_the_table():
  z = _encode(params(), np.tile(np.arange(V), (B, 1)))
  assert z.shape == (B, V, E) and z.dtype == jnp.float32
  np.testing.assert_allclose(np.square(z).mean(axis=-1), 1.0, rtol=1e-5)


def test_segments_are_guidance_up_to_its_ends_prompt_and_target():
  rows = [
    ([3, EOS, EOS, 5, 4, 6], [1, 1, 1, 1, 0, 1], [2, 2, 2, 1, 0, 1]),
    ([3, EOS, 4, 5, EOS, EOS], [1, 1, 1, 0, 0, 0], [1, 1, 1, 0, 0, 0]),  # an end in the prompt
    ([EOS, EOS, 4, EOS, EOS, 5], [1, 1, 1, 1, 1, 0], [2, 2, 1, 1, 1, 0]),
    ([3, 2, EOS, EOS, 2, 5], [1, 1, 0, 1, 0, 0], [1, 1, 0, 1, 0, 0]),
  ]
  tokens, given, expected = (np.array(x) for x in zip(*rows, strict=True))
  np.testing.assert_array_equal(segments(tokens, given == 1), expected)


def test_estimate_sees_what_is_given_its_latents_and_times_and_nothing_hidden():
  tokens, given = canvases()
  segment = np.asarray(segments(tokens, given))
  z, nothing = normal(3, B, L, E), np.zeros((B, L, E), np.float32)
  look = lambda tokens, segment, z, time=0.5, before=nothing: estimate(  # noqa: E731
    tokens, z, before, time, segment
  )
  first = look(tokens, segment, z)
  assert first.shape == z.shape and first.dtype == np.float32
  target = given[..., None]
  other = (tokens % (V - 1)) + 1  # other tokens everywhere, and no end
  differs = lambda found: float(np.where(target, 0.0, np.abs(found - first)).max())  # noqa: E731
  assert differs(look(np.where(given, tokens, other), segment, z)) == 0.0  # targets by latents
  assert differs(look(np.where(given, other, tokens), segment, z)) > 1e-3
  assert differs(look(tokens, segment, np.where(target, z + 1.0, z))) == 0.0
  assert differs(look(tokens, segment, z + 1.0)) > 1e-3
  assert differs(look(tokens, segment, z, np.where(given, 0.9, 0.5))) == 0.0
  assert differs(look(tokens, segment, z, 0.6)) > 1e-4
  hidden = np.where(given, latents.HIDDEN, segment)
  alone, again = (look(x, hidden, z) for x in (tokens, np.where(given, other, tokens)))
  np.testing.assert_array_equal(alone, again)
  assert differs(look(tokens, segment, z, before=normal(4, B, L, E))) > 1e-3


@pytest.mark.parametrize('vocab_size', [pytest.param(V, marks=pytest.mark.full), 50_257])
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
  tokens = np.arange(4 * L).reshape(4, L) % vocab_size

  @jax.jit
  def there_and_back(weights, tokens):
    return many.round(weights, many.encode(weights, tokens))

  with mesh_lib.use(mesh):
    logits = there_and_back(split, mesh_lib.place_whole(mesh, tokens))
  assert logits.shape == (4, L, vocab_size)
  np.testing.assert_array_equal(logits.argmax(axis=-1), tokens)
  np.testing.assert_allclose(logits, there_and_back(jax.device_get(split), tokens), atol=1e-5)


# Steps.


def test_a_step_keeps_the_noise_of_ddim_and_draws_the_posterior_of_ancestral():
  """DDIM from the true noise lands on its curve; ancestral steps have the law of the forward; the
  last step of both is the estimate itself."""
  n, now, then = 200_000, np.float32(0.6), np.float32(0.35)
  noise = normal(6, 2, n, 1)
  z_0 = 0.7
  (alpha, sigma), (alpha_s, sigma_s) = ([float(x) for x in signal(t)] for t in (now, then))
  z_t = np.float32(alpha * z_0 + sigma * noise[0])
  found = np.full_like(z_t, z_0)
  curve = step_to(z_t, found, now, then, noise[1], 'ddim')
  np.testing.assert_allclose(curve, alpha_s * z_0 + sigma_s * noise[0], atol=1e-5)
  drawn = np.asarray(step_to(z_t, found, now, then, noise[1], 'ancestral'))
  np.testing.assert_allclose(drawn.mean(), alpha_s * z_0, atol=0.01)
  np.testing.assert_allclose(drawn.std(), sigma_s, atol=0.01)
  joint = np.cov(z_t[:, 0], drawn[:, 0])[0, 1]
  np.testing.assert_allclose(joint, alpha / alpha_s * sigma_s**2, atol=0.01)
  for kind in sampling.KINDS:
    last = step_to(z_t, noise[0], np.float32(0.3), np.float32(0.0), noise[1], kind)
    np.testing.assert_array_equal(last, noise[0], err_msg=kind)


@functools.partial(jax.jit, static_argnums=1)
def noise_of(keys, name, step):
  return jax.vmap(lambda key: jax.random.normal(rng.stream(key, name, step), (L, E)))(keys)


def reference(schedule, kind, prompt_scale, guidance_scale, clamp):
  """The loop in numpy, of flat or staggered rows alike."""
  tokens, given = canvases()
  segment = np.asarray(segments(tokens, given))
  time = np.asarray(schedule.levels) / schedule.num_levels * schedule.last_time
  time = time.astype(np.float32)
  noise = lambda name, step: np.asarray(noise_of(keys(), name, step))  # noqa: E731
  z_0 = encode(tokens)
  alpha, sigma = (np.asarray(x)[None, :, None] for x in signal(time[0]))
  fixed = given[..., None]
  z = np.where(fixed, z_0, alpha * z_0 + sigma * noise('start', 0))
  before = np.zeros_like(z)
  for s in range(len(time) - 1):
    if not ((time[s] > time[s + 1]) & ~given.all(axis=0)).any():
      continue
    found = []
    for hidden in ([1, 2], [2], []):
      shown = np.where(np.isin(segment, hidden), latents.HIDDEN, segment)
      found.append(estimate(tokens, z, before, time[s], shown))
    neither, one, both = found
    before = neither + prompt_scale * (one - neither) + guidance_scale * (both - one)
    nearest = encode(rounded(before).argmax(axis=-1).astype(np.int32))
    is_clamped = (time[s] > 0.0) & (time[s] <= clamp)
    before = np.where(is_clamped[None, :, None], nearest, before)
    now, then = (time[s + i][None, :, None] for i in (0, 1))
    new = np.asarray(step_to(z, before, now, then, noise('step', s), kind))
    z = np.where((time[s] > time[s + 1])[None, :, None] & ~fixed, new, z)
  return z


@pytest.mark.parametrize(
  'schedule, kind, clamp',
  [
    (ROWS[0], 'ddim', 0.0),
    (ROWS[0], 'ddim', 0.6),
    (ROWS[1], 'ddim', 0.6),
    (ROWS[1], 'ancestral', 0.0),
    pytest.param(ROWS[1], 'ddim', 0.0, marks=pytest.mark.full),
    pytest.param(ROWS[0], 'ancestral', 0.0, marks=pytest.mark.full),
  ],
  ids=lambda x: getattr(x, 'name', None),
)
def test_scan_is_a_numpy_loop(schedule, kind, clamp):
  expected = reference(schedule, kind, 0.5, 2.0, clamp)
  result = refine(schedule, kind=kind, prompt_scale=0.5, guidance_scale=2.0, clamp=clamp)
  np.testing.assert_allclose(result.latents, expected, atol=2e-4)
  tokens, given = canvases()
  assert result.tokens.dtype == jnp.int32
  new = np.asarray(result.tokens)
  np.testing.assert_array_equal(new[given], tokens[given])
  logits = rounded(result.latents)
  np.testing.assert_array_equal(new[~given], logits.argmax(axis=-1)[~given])
  at = lambda x: np.take_along_axis(logits, x[..., None], axis=-1)[..., 0]  # noqa: E731
  np.testing.assert_allclose(result.gain, at(new) - at(tokens), atol=1e-4)


def test_scales_of_one_are_the_plain_condition_and_of_nought_none():
  plain = refine(looks=(False, False, True))
  np.testing.assert_allclose(plain.latents, refine().latents, atol=1e-4)
  assert (plain.network_calls, refine().network_calls) == (4, 12)
  tokens, given = canvases()
  other = np.where(given & (tokens != EOS), tokens % (V - 1) + 1, tokens)
  free = [
    refine(tokens=x, prompt_scale=0.0, guidance_scale=0.0).latents[:, 4:] for x in (tokens, other)
  ]
  np.testing.assert_array_equal(*free)
  asked = [refine(tokens=x).latents[:, 4:] for x in (tokens, other)]
  assert np.abs(asked[0] - asked[1]).max() > 1e-3
  prompted = refine(prompt_scale=1.0, guidance_scale=0.0).latents[:, 4:]
  assert np.abs(prompted - asked[0]).max() > 1e-4 and np.abs(prompted - free[0]).max() > 1e-4


@pytest.mark.parametrize(
  'scales, looks',
  [
    ((3.0, 3.0), (True, False, True)),
    ((2.0, 0.0), (True, True, False)),
    pytest.param((1.0, 3.0), (False, True, True), marks=pytest.mark.full),  # guidance alone
    pytest.param((1.0, 0.0), (False, True, False), marks=pytest.mark.full),
  ],
)
def test_what_cancels_is_not_looked_at(scales, looks):
  assert tuple(weight != 0.0 for weight in sampling.mixture(*scales)) == looks
  scales = dict(zip(('prompt_scale', 'guidance_scale'), scales, strict=True))
  few, all_three = (refine(**scales, **x) for x in (dict(looks=looks), {}))
  np.testing.assert_allclose(few.latents, all_three.latents, atol=2e-4)
  assert few.network_calls == 4 * sum(looks)


def test_clamped_estimates_are_latents_of_tokens():
  _, given = canvases()
  for clamp, is_near in ((0.0, False), (1.0, True)):
    result = refine(clamp=clamp)
    nearest = encode(np.asarray(result.tokens))
    assert (np.abs(result.latents - nearest)[~given].max() < 1e-5) == is_near


def test_a_text_depends_on_its_own_key_alone():
  tokens, given = canvases()
  whole = refine(ROWS[1], kind='ancestral').latents
  rows = np.array([1, 2, 0])
  turned = refine(ROWS[1], tokens[rows], given[rows], keys()[rows], kind='ancestral').latents
  np.testing.assert_allclose(whole[rows], turned, atol=1e-5)
  other = refine(ROWS[1], seeds=keys(seed=9), kind='ancestral').latents
  assert np.abs(other - whole)[:, 4:].max() > 1e-2


def test_a_text_that_rests_does_not_depend_on_neighbours_that_move():
  """Of four blocks the first text has something to refine in the last two alone; it is as if all
  its neighbours were its twins."""
  tokens, _ = canvases()
  given = np.arange(L) < np.array([[5], [1], [3]])
  together = refine(ROWS[1], tokens, given)
  for i, steps in enumerate((6, 12, 9)):
    rows = np.full(B, i)
    alone = refine(ROWS[1], tokens[rows], given[rows], keys()[rows])
    np.testing.assert_allclose(together.latents[i], alone.latents[i], atol=1e-5)
    np.testing.assert_array_equal(together.tokens[i], alone.tokens[i])
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
    arguments = Nearest(DENOISE.network, EOS), params(), schedule, tokens, given, keys(200)
    new = np.asarray(_refine(*arguments, looks=(False, False, True)).tokens)
    shares.append(float((new != tokens)[~given].mean()))
  assert shares[0] == 0.0 and sorted(shares) == shares and shares[1] < shares[2] < shares[3]
  np.testing.assert_allclose(shares[3], 1.0 - 1.0 / V, atol=0.06)


def test_unknown_kind_is_refused():
  with pytest.raises(ValueError, match='ddim, ancestral'):
    refine(kind='euler')


# The objective.


@functools.partial(jax.jit, static_argnums=0)
def examples(batch=64):
  tokens, given = canvases(batch)
  uniform = (jnp.arange(batch) + 0.5) / batch
  draft = jnp.where(jnp.arange(L) % 2 == 0, tokens, (tokens + 1) % V)
  return Examples(jnp.asarray(tokens), ~jnp.asarray(given), uniform, keys(batch), draft=draft)


@functools.partial(jax.jit, static_argnums=(0, 1))
def loss_of(objective, denoise, weights, examples):
  return objective(denoise, weights, examples, flat(L, 10))


OBJECTIVE = LatentDiffusion(E, most_weight=3.0)


def test_objective_is_the_weighted_error_and_the_reading():
  few = examples()
  loss = np.asarray(loss_of(OBJECTIVE, DENOISE, params(), few))
  draw = jax.jit(jax.vmap(functools.partial(objective_lib._draw, shape=(L, E))))
  draws = {name: np.asarray(x) for name, x in draw(examples().keys).items()}
  tokens, counted, uniform, draft = map(
    np.asarray, (few.tokens, few.counted, few.uniform, few.draft)
  )
  time = np.broadcast_to(1.0 - uniform[:, None], tokens.shape)
  np.testing.assert_array_equal(loss == 0.0, ~counted)
  shown = np.where(counted, draft, tokens)
  z_0, draft = (encode(x) for x in (tokens, shown))
  alpha, sigma = (np.asarray(x)[..., None] for x in signal(time))
  z_t = alpha * draft + sigma * draws['noise']
  segment = np.asarray(segments(tokens, ~counted))
  hide = (draws['prompt'] < 0.1)[:, None] & (segment == latents.PROMPT)
  hide |= (draws['guidance'] < 0.1)[:, None] & (segment == latents.GUIDANCE)
  assert 0 < hide.sum() < hide.size / 4
  segment = np.where(hide, latents.HIDDEN, segment)
  found = estimate(tokens, z_t, np.zeros_like(z_t), time, segment)
  before = np.where((draws['coin'] < 0.5)[:, None, None], found, np.float32(0.0))
  found = estimate(tokens, z_t, before, time, segment)
  weight = np.clip(np.square(alpha / sigma)[..., 0], 1.0, 3.0)
  law = worlds.softmax(rounded(found).astype(np.float64))
  reading = -np.log(np.take_along_axis(law, tokens[..., None], axis=-1)[..., 0])
  expected = weight * np.square(found - z_0).mean(axis=-1) + reading
  np.testing.assert_allclose(loss, np.where(counted, expected, 0.0), rtol=1e-3, atol=1e-4)


def test_both_looks_draw_dropout_of_their_own():
  seen = []

  class Watched(LatentDenoiser):
    def estimate(self, *args):
      seen.append(None if args[-1] is None else jax.random.key_data(args[-1]))
      return super().estimate(*args)

  denoise = Watched(LatentNetwork(dataclasses.replace(CONFIG, dropout=0.5), E), EOS)

  @jax.jit
  def look(key):
    seen.clear()
    loss = LatentDiffusion(E)(denoise, params(), examples(4), flat(L, 10), key)
    return loss.sum(), seen

  looks = [look(key) for key in (None, *keys(2))]
  assert len({float(loss) for loss, _ in looks}) == 3
  assert looks[0][1] == [None, None]
  assert len({tuple(key.tolist()) for _, both in looks[1:] for key in both}) == 4


def test_the_table_learns_from_reading_alone_and_enough():
  """Not from what is noised; and of a real vocabulary the gradient does not vanish."""
  network = LatentNetwork(dataclasses.replace(CONFIG, vocab_size=2048), 32)
  denoise = LatentDenoiser(network, EOS)
  grads = []
  for weight in (1.0, 5.0):
    objective = LatentDiffusion(32, most_weight=weight)
    total = lambda weights: loss_of(objective, denoise, weights, examples()).sum()  # noqa: B023, E731
    grads.append(jax.device_get(jax.jit(jax.grad(total))(params(denoise))['params']))
  table = [grad['table'] for grad in grads]
  np.testing.assert_allclose(*table, atol=1e-5)
  assert np.abs(grads[0]['entry']['kernel'] - grads[1]['entry']['kernel']).max() > 1e-4
  assert np.abs(table[0]).max() > 1e-3


def test_without_a_draft_the_text_is_noised():
  of = lambda draft: np.asarray(  # noqa: E731
    loss_of(OBJECTIVE, DENOISE, params(), examples()._replace(draft=draft))
  )
  np.testing.assert_array_equal(of(None), of(examples().tokens))
  assert np.abs(of(None) - of(examples().draft)).max() > 0.01


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
  (behind,) = model.refine(
    DRAFT, prompt='so so ', strength=1.0, hyperschedule='block,width=4,num_levels=2'
  )
  assert behind.network_calls == 8  # of five blocks, the first is given
  (plain,) = model.refine(DRAFT, strength=1.0, **common)
  pulled = [
    model.refine(DRAFT, strength=1.0, **common, **settings)[0]
    for settings in (
      dict(prompt_scale=5.0, guidance_scale=0.0),
      *(dict(sampler='ancestral'), dict(clamp=0.9)),
    )
  ]
  assert len({plain.text, *(x.text for x in pulled)}) == 4
  assert [x.network_calls for x in pulled] == [16, 8, 8]  # neither, and the prompt alone


@pytest.mark.parametrize(
  'settings, message',
  [
    (dict(refiner='token'), 'refiner token is not for this model'),
    (dict(temperature=0.5), 'does not know temperature'),
    (dict(steps=2, hyperschedule='flat,num_levels=2'), 'give one'),
    (dict(steps=0), 'steps must be at least 1, got 0'),
    (dict(guidance_scale=float('nan')), 'guidance_scale must be a finite number'),
    (dict(prompt_scale=float('inf')), 'prompt_scale must be a finite number'),
    (dict(clamp=1.5), r'clamp must be in \[0, 1\], got 1.5'),
    (dict(hyperschedule=flat(9, 2)), 'has 9 positions, and the text 14'),
    (dict(sampler='acs', strength=0.0), 'must be one of ddim'),
    (dict(sampler='acs'), 'must be one of ddim, ancestral'),
  ],
)
def test_what_does_not_go_together_is_refused(models, settings, message):
  with pytest.raises(UserError, match=message):
    models('latent_refiner').refine(DRAFT, **settings)


def test_a_latent_refiner_is_trained_and_commands_refine_with_it(text_file, tmp_path):
  directory = tmp_path / 'run'
  with one_device():
    train(small_config('latent_refiner', text_file, steps=2), directory)
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
