"""Starting a run from the parameters of another."""

import jax
import numpy as np
import pytest
from conftest import small_config
from untrained import one_device, untrained

import ardiff_jax
from ardiff_jax.errors import UserError
from ardiff_jax.mesh import make_mesh
from ardiff_jax.training import loop
from ardiff_jax.training.checkpointing import fingerprint
from ardiff_jax.training.loop import train
from ardiff_jax.training.state import init_state, make_optimizer
from ardiff_jax.training.warm_start import warm_start


@pytest.fixture(autouse=True)
def only_trained(monkeypatch):
  """On one device, and without what training measures in between."""
  monkeypatch.setattr(loop, '_evaluate', lambda *_: {'nll_per_token': 0.0})
  with one_device():
    yield


def started(config, directory):
  """The state at the start of a run, on all devices, before and after it takes the parameters."""
  mesh = make_mesh(config.mesh)
  prepared = loop._prepare(config, directory, mesh)
  optimizer, _ = make_optimizer(config.train)
  fresh = init_state(prepared.method, optimizer, config.data.length, config.seed, mesh)
  return prepared, fresh, warm_start(fresh, config)


def test_an_autoregressive_model_starts_a_shifted_denoiser(text_file, tmp_path):
  """Its parameters and tokenizer are the other's moving average and tokenizer; then they move."""
  train(small_config('ar', text_file, steps=2), tmp_path / 'ar')
  config = small_config('bd3lm', text_file, steps=2)
  config.init_from = str(tmp_path / 'ar')
  config.denoiser.alignment, config.hyperschedule.width = 'shifted', 8
  prepared, state, warm = started(config, tmp_path / 'new')
  theirs = ardiff_jax.load(tmp_path / 'ar')
  assert prepared.tokenizer.name == theirs.tokenizer.name
  for mine, other, fresh in zip(
    *map(jax.tree.leaves, (warm.params, theirs.params, state.params)), strict=True
  ):
    np.testing.assert_array_equal(mine, other)
    assert mine.sharding == fresh.sharding
  assert fingerprint(warm.ema) == fingerprint(warm.params) != fingerprint(state.params)
  assert train(config, tmp_path / 'new')
  moved = ardiff_jax.load(tmp_path / 'new')
  assert fingerprint(moved.params) != fingerprint(theirs.params)
  assert moved.sample(num_samples=1, steps=2)[0].network_calls == 8


def test_starting_from_another_network_says_what_differs(text_file, tmp_path):
  untrained(small_config('ar', text_file), tmp_path / 'ar')
  config = small_config('bd3lm', text_file, steps=1)
  config.init_from, config.model.num_layers = str(tmp_path / 'ar'), 1
  config.model.norm = 'rmsnorm'
  with pytest.raises(
    UserError, match="norm is 'layernorm' there and 'rmsnorm' here; num_layers is 2 there and 1"
  ):
    train(config, tmp_path / 'new')
  config.init_from = str(tmp_path / 'nowhere')
  with pytest.raises(UserError, match='nowhere'):
    train(config, tmp_path / 'new')
  assert not (tmp_path / 'new').exists()


def test_a_gate_starts_on_a_frozen_denoiser_and_goes_on_from_a_gate(text_file, tmp_path):
  untrained(small_config('epsilon_hybrid', text_file), tmp_path / 'hybrid')
  config = small_config('gate', text_file, steps=3, ema_decay=0.0)  # averages are rounded
  config.init_from = str(tmp_path / 'hybrid')
  train(config, tmp_path / 'gate')
  hybrid, gate = (ardiff_jax.load(tmp_path / name) for name in ('hybrid', 'gate'))
  assert fingerprint(gate.params['params']) == fingerprint(hybrid.params['params'])

  config.init_from = str(tmp_path / 'gate')
  _, fresh, again = started(config, tmp_path / 'again')
  assert fingerprint(again.params) == fingerprint(again.ema) == fingerprint(gate.params)
  assert fingerprint(fresh.params['gate']) != fingerprint(gate.params['gate'])

  config.gate.width, config.objective.denoising_weight = 7, 1.0
  _, fresh, other = started(config, tmp_path / 'other')
  assert other.params['gate']['in']['kernel'].shape[1] == 7
  assert fingerprint(other.params['gate']) == fingerprint(fresh.params['gate'])
  assert fingerprint(other.params['params']) == fingerprint(hybrid.params['params'])
  train(config, tmp_path / 'tuned')
  tuned = ardiff_jax.load(tmp_path / 'tuned')
  assert fingerprint(tuned.params['params']) != fingerprint(hybrid.params['params'])


def test_a_gate_needs_a_denoiser(text_file, tmp_path):
  with pytest.raises(UserError, match=r'set config\.init_from'):
    train(small_config('gate', text_file), tmp_path / 'gate')
  config = small_config('gate', text_file)
  untrained(small_config('mdlm', text_file), tmp_path / 'mdlm')
  config.init_from = str(tmp_path / 'mdlm')
  with pytest.raises(
    UserError, match=r"noise\.name is 'absorbing' there and 'epsilon_hybrid' here"
  ):
    train(config, tmp_path / 'gate')
  config = small_config('epsilon_hybrid', text_file)
  config.gate.kind = 'linear'
  with pytest.raises(UserError, match='only objective overwrite_gate trains a gate'):
    train(config, tmp_path / 'gate')
  config = small_config('gate', text_file)
  config.init_from, config.gate.kind = str(tmp_path), ''
  with pytest.raises(UserError, match=r'needs config\.gate\.kind'):
    train(config, tmp_path / 'gate')


def test_outputs_of_another_meaning_are_refused(text_file, tmp_path):
  untrained(small_config('sedd', text_file), tmp_path / 'sedd')
  config = small_config('mdlm', text_file)
  config.init_from = str(tmp_path / 'sedd')
  config.model.update(ardiff_jax.load(tmp_path / 'sedd').config.model)
  with pytest.raises(UserError, match='head=score'):
    train(config, tmp_path / 'new')


def test_an_autoregressive_model_becomes_one_of_any_order_or_of_diffusion(text_file, tmp_path):
  """Its parameters as they are; the vectors that A3 has for masks at each position begin anew."""
  untrained(small_config('ar', text_file), tmp_path / 'ar')
  start = ardiff_jax.load(tmp_path / 'ar').params['params']
  for name, objective in (
    ('a3', {'stages': ((0.0, 4, 1.0, 0.5),)}),
    ('adapt', {'causal_steps': 0, 'anneal_steps': 2}),
  ):
    config = small_config(name, text_file, steps=1, learning_rate=0.0, ema_decay=0.0)
    config.init_from = str(tmp_path / 'ar')
    config.objective.update(objective)
    train(config, tmp_path / name)
    model = ardiff_jax.load(tmp_path / name)
    now = dict(model.params['params'])
    if name == 'a3':
      assert np.ptp(now.pop('mask_position_embedding')) > 0.0
    assert fingerprint(now) == fingerprint(start)
    assert len(model.sample(1, sampler='unmask_confidence', steps=4)[0].token_ids) == 32
