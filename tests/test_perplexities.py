"""Tasks of likelihoods on named sets."""

import math

import numpy as np
import pytest
from conftest import small_config
from ml_collections import ConfigDict
from untrained import untrained

import ardiff_jax
from ardiff_jax.ablation import perplexities
from ardiff_jax.ablation.models import Models
from ardiff_jax.data.packing import pack
from ardiff_jax.errors import UserError


@pytest.fixture(scope='module')
def models(tmp_path_factory):
  folder = tmp_path_factory.mktemp('models')
  text = folder / 'sums.txt'
  text.write_text(''.join(f'{i} plus {j} is {i + j}.\n' for i in range(20) for j in range(20)))
  (folder / 'other.txt').write_text('12 minus 3 is 9.\n' * 40)
  for name in ('ar', 'gamma_hybrid'):
    untrained(small_config(name, text), folder / name)
  return Models(lambda name, seed: folder / name), folder


def test_perplexity_is_of_full_rows_evenly_spread(models):
  """All full rows of a file: what the model says of them, and its bits are of its bytes."""
  models, folder = models
  other = str(folder / 'other.txt')
  run = ConfigDict(dict(model='ar', num_texts=1000, num_rows=2))
  metrics = perplexities.perplexity(models, run, {'data': other}, 0)['metrics']
  model, text = ardiff_jax.load(folder / 'ar'), (folder / 'other.txt').read_text()
  packed = pack([text], model.tokenizer, 32)
  full = len(packed.stream) // 32
  assert metrics['exact'] == 1.0 and metrics['tokens'] == 32 * full
  rows = np.stack([packed[i]['tokens'] for i in range(full)])
  nats = model.sequence_nats(rows, np.ones(rows.shape, bool), num_samples=None, seed=0)
  np.testing.assert_allclose(metrics['nats'], nats.mean() / 32, rtol=1e-6)
  np.testing.assert_allclose(metrics['perplexity'], math.exp(metrics['nats']), rtol=1e-6)
  # bytes are tokens here, but for the end of the text
  expected = metrics['nats'] / math.log(2) * (len(text) + 1) / len(text)
  np.testing.assert_allclose(metrics['bits_per_byte'], expected, rtol=1e-6)
  assert perplexities.perplexity(models, run, {'data': other}, 1)['metrics'] == metrics

  run.num_texts = 3
  few = perplexities.perplexity(models, run, {'data': other}, 0)['metrics']
  chosen = nats[np.linspace(0, full - 1, 3).astype(int)]
  assert few['tokens'] == 3 * 32
  np.testing.assert_allclose(few['nats'], chosen.mean() / 32, rtol=1e-6)
  valid = perplexities.perplexity(models, run, {'data': 'valid'}, 0)['metrics']
  assert valid['nats'] != few['nats']
  with pytest.raises(UserError, match='neither a text file nor a known set'):
    perplexities.perplexity(models, run, {'data': 'nowhere'}, 0)


def test_a_hyperschedule_of_the_settings_is_measured_on(models):
  models, folder = models
  other = str(folder / 'other.txt')
  run = ConfigDict(dict(model='gamma_hybrid', num_texts=8, num_rows=2))
  own, block = (
    perplexities.perplexity(models, run, {'data': other, **extra}, 0)['metrics']
    for extra in ({}, {'hyperschedule': 'block,width=4,num_levels=4'})
  )
  assert own['exact'] == block['exact'] == 0.0 and own['nats'] != block['nats']


def test_the_released_weighting_is_below_the_bound(models):
  """At the same draws; a network that knows next to nothing shows it as well as any."""
  models, folder = models
  other = str(folder / 'other.txt')
  run = ConfigDict(dict(model='gamma_hybrid', num_texts=16, num_rows=4))
  metrics = perplexities.released(models, run, {'data': other}, 0)['metrics']
  difference = metrics['released_nats'] - metrics['nats']
  np.testing.assert_allclose(metrics['difference'], difference, atol=1e-5)
  np.testing.assert_allclose(metrics['released_perplexity'], math.exp(metrics['released_nats']))
  assert metrics['difference'] < -metrics['stderr']
  run.num_rows = 16
  bound = perplexities.perplexity(models, run, {'data': other}, 0)['metrics']
  # the continuous-time limit of the same bound, each within a few standard errors
  assert abs(bound['nats'] - metrics['nats']) < 0.5
