"""What a judge thinks of texts, and how alike two sets of them are."""

import functools
import sys

import flax.linen as nn
import jax
import jax.numpy as jnp
import numpy as np
import pytest
from conftest import small_config
from ml_collections import ConfigDict
from steps import make_mesh
from untrained import one_device, random_params

import ardiff_jax
from ardiff_jax import mesh as mesh_lib
from ardiff_jax import method as method_lib
from ardiff_jax.data.packing import pack
from ardiff_jax.data.tokenizers import ByteTokenizer, build_tokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import samples
from ardiff_jax.hyperschedules import Region
from ardiff_jax.judging import mauve, reading
from ardiff_jax.model import Model
from ardiff_jax.training.loop import train

WORDS = ['to', 'be', 'or', 'not', 'that', 'is', 'the', 'question', 'nobler', 'mind', 'suffer']


@functools.cache
def random_model(name='ar', mesh=None, **settings) -> Model:
  """A model of configs/NAME.py with random weights, all of them far from 0."""
  config, tokenizer = small_config(name, 'unused'), ByteTokenizer('byte', {})
  config.model.update(dtype='float32', **settings)
  method = method_lib.build(config, tokenizer.vocab_size, tokenizer.bos_id, tokenizer.eos_id)
  boxed = jax.eval_shape(lambda: method.init(jax.random.key(0), config.data.length))
  mesh = mesh or make_mesh()
  params = jax.device_put(random_params(nn.unbox(boxed), 0.7), mesh_lib.shardings(mesh, boxed))
  return Model(config, tokenizer, method, params, 0, mesh)


def random_tokens(count, length=32):
  return np.random.default_rng(1).integers(0, 256, (count, length))


def gaussians(count, mean=0.0, seed=0):
  return np.random.default_rng(seed).standard_normal((count, 16)) + mean


def test_nats_are_those_of_the_likelihood():
  judge, tokens = random_model(), random_tokens(11, 20)
  nats = judge.sequence_nats(tokens, np.ones(tokens.shape, bool), num_samples=None, seed=0)
  np.testing.assert_allclose(reading.nats(judge, tokens), nats / 20, rtol=1e-6)
  assert reading.nats(judge, tokens).std() > 0.1


LEARNED = dict(positions='learned', max_positions=33)


@pytest.mark.parametrize(
  'positions, length',
  [
    *(({}, 7), (LEARNED, 32)),
    *(pytest.param(*case, marks=pytest.mark.full) for case in (({}, 32), (LEARNED, 7))),
  ],
)
def test_features_are_what_the_next_token_is_predicted_from(positions, length):
  judge, tokens = random_model(tie_embedding=False, **positions), random_tokens(5, length)
  with_next = np.pad(tokens, ((0, 0), (0, 1)))
  logits = jax.jit(judge.method.denoise)(
    judge.params,
    jnp.asarray(with_next),
    sigma=jnp.zeros(with_next.shape),
    regions=jnp.full(length + 1, Region.SETTLED),
    settle_step=jnp.arange(length + 1),
  )[:, -1]
  head = np.asarray(judge.params['params']['head'])[:, : judge.tokenizer.vocab_size]
  np.testing.assert_allclose(reading.features(judge, tokens) @ head, logits, rtol=1e-4, atol=1e-4)


def test_features_depend_on_their_text_and_on_nothing_else():
  judge, tokens = random_model(), random_tokens(11)
  whole = reading.features(judge, tokens)
  assert whole.shape == (11, 32) and whole.dtype == np.float32
  np.testing.assert_allclose(reading.features(judge, tokens, batch_size=3), whole, atol=1e-5)
  for place in (0, 31):
    other = tokens.copy()
    other[4, place] ^= 1
    moved = np.abs(reading.features(judge, other) - whole).max(axis=1)
    assert moved[4] > 1e-3 and np.delete(moved, 4).max() < 1e-5


@pytest.mark.parametrize('sizes', [dict(fsdp=2, tensor=2, sequence=2), dict(data=8)])
def test_features_are_the_same_on_any_mesh(sizes):
  tokens = random_tokens(6)
  found = reading.features(random_model(mesh=make_mesh(**sizes)), tokens)
  np.testing.assert_allclose(found, reading.features(random_model(), tokens), atol=1e-4)


def test_judges_that_cannot_judge_are_refused():
  judge = random_model()
  reading.check(judge, judge.tokenizer, 32)
  with pytest.raises(UserError, match='not autoregressive'):
    reading.check(random_model('mdlm'), judge.tokenizer, 32)
  settings = ConfigDict(dict(kind='sentencepiece', path='', vocab_size=300))
  other = build_tokenizer(settings, [' '.join(WORDS) * 20])
  with pytest.raises(UserError, match=r'another tokenizer.*--retokenise'):
    reading.check(judge, other, 32)
  with pytest.raises(UserError, match='33 tokens are longer than the 32'):
    reading.check(judge, judge.tokenizer, 33)


def test_text_that_repeats_itself_is_degenerate_and_real_text_is_not():
  draw = np.random.default_rng(0)
  texts = [' '.join(draw.choice(WORDS, 30))[:64].encode() for _ in range(200)]
  real = np.array([list(text) for text in texts])
  entropies = samples.entropies(real[::2])
  assert reading.degenerate(entropies, samples.entropies(real[1::2])) is None
  loops = np.tile(real[:20, :6], (1, 11))[:, :64]
  reason = reading.degenerate(samples.entropies(loops), entropies)
  assert f'{samples.entropies(loops).mean():.2f} nats' in reason and 'says nothing' in reason
  # the poorest text sets no threshold, nor does the mean
  real_entropies = np.append(np.linspace(2.0, 3.0, 1000), 0.1)
  assert reading.degenerate(np.array([1.9]), real_entropies)
  assert reading.degenerate(np.array([2.1]), real_entropies) is None


def test_mauve_tells_the_same_law_from_another():
  pytest.importorskip('mauve')
  same = mauve.of_features(gaussians(200), gaussians(200, seed=1))
  assert same.score > 0.85 and same[1:] == (200, 20)
  assert mauve.of_features(gaussians(200), gaussians(200)).score > 0.999
  near = mauve.of_features(gaussians(200), gaussians(200, 0.5, seed=1)).score
  far = mauve.of_features(gaussians(200), gaussians(200, 3.0, seed=1)).score
  assert far < 0.02 < near < same.score - 0.1
  assert mauve.of_features(gaussians(200), gaussians(200, seed=1)) == same


def test_mauve_of_texts_is_that_of_their_features():
  pytest.importorskip('mauve')
  judge, tokens = random_model(), random_tokens(200)
  halves = [reading.features(judge, part) for part in (tokens[:100], tokens[100:])]
  assert mauve.of_texts(judge, tokens[:100], tokens[100:]) == mauve.of_features(*halves)


def test_mauve_refuses_what_it_cannot_compare(monkeypatch):
  with pytest.raises(UserError, match=r'99 and 200 texts: .* at least 100'):
    mauve.of_features(gaussians(99), gaussians(200))
  with pytest.raises(UserError, match=r'150 and 100 texts: .* as many of both'):
    mauve.of_features(gaussians(150), gaussians(100))
  texts = np.zeros((100, 128), int), np.zeros((100, 64), int)
  with pytest.raises(UserError, match='texts of 128 and of 64 tokens'):
    mauve.of_texts(None, *texts)
  monkeypatch.setitem(sys.modules, 'mauve', None)
  with pytest.raises(UserError, match='mauve-text'):
    mauve.of_features(gaussians(100), gaussians(100))


def test_a_trained_judge_tells_real_text_from_shuffled_words(tmp_path, shared_data):
  """Shuffled texts end with whole words, which is what their features tell of them; a loop pleases
  the judge better than real text, and is flagged."""
  pytest.importorskip('mauve')
  text = (shared_data / 'tinyshakespeare' / 'input.txt').read_text()
  (tmp_path / 'train.txt').write_text(text[:500_000])
  (tmp_path / 'valid.txt').write_text(text[-400 * 64 + 1 :])  # and the end of the document
  config = small_config('ar', tmp_path / 'train.txt', steps=100, learning_rate=6e-3, batch_size=32)
  config.data.update(valid_source=str(tmp_path / 'valid.txt'), length=64)
  config.train.update(log_every=100, eval_every=100, checkpoint_every=100)
  with one_device():
    train(config, tmp_path / 'run')
    judge = ardiff_jax.load(tmp_path / 'run')
  valid = pack([(tmp_path / 'valid.txt').read_text()], judge.tokenizer, 64)
  texts = valid.stream.reshape(400, 64)
  own = judge.likelihood(valid, num_samples=None, seed=0)
  np.testing.assert_allclose(reading.nats(judge, texts).mean(), own.nll_per_token, rtol=1e-5)

  draw = np.random.default_rng(0)

  def shuffled(row):
    words = np.split(row, np.flatnonzero(row == ord(' ')))
    return np.concatenate([words[i] for i in draw.permutation(len(words))])

  real, other = texts[::2], texts[1::2]
  worse = np.stack([shuffled(row) for row in other])
  loss = reading.nats(judge, worse) - reading.nats(judge, other)
  assert loss.mean() > 5 * loss.std() / 200**0.5
  assert mauve.of_texts(judge, real, real).score > 0.999
  score = mauve.of_texts(judge, real, other).score
  assert mauve.of_texts(judge, real, worse).score < score - 0.1 and score > 0.85
  assert reading.degenerate(samples.entropies(other), samples.entropies(real)) is None

  loops = np.tile(np.frombuffer(b' the', np.uint8).astype(int), (200, 16))
  assert reading.nats(judge, loops).mean() < reading.nats(judge, real).mean()
  assert reading.degenerate(samples.entropies(loops), samples.entropies(real))
