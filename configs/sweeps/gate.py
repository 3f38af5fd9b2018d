"""Every ablation of the overwrite gate: repair of corrupted texts, and revision of drafts.

  python -m ardiff_jax.ablate --sweep=configs/sweeps/gate.py --workdir=runs/gate_sweep

Trains an ε-hybrid, gates on top of it, an autoregressive judge, and another that drafts. The main
gate is trained anew for every seed, those of group `training` once: their intervals are of texts.
"""

from ml_collections import ConfigDict

from configs.sweeps import base

_SIGNALS = ('entropy', 'margin', 'change', 'surprise')
_SHARES = (0.05, 0.15, 0.3)

# By name: what is trained otherwise than in configs/gate.py.
_GATES = {
  'gate': {},
  'gate, linear': {'gate': {'kind': 'linear', 'standardise': True}},
  'gate, standardised': {'gate': {'standardise': True}},
  **{f'gate, {name} alone': {'gate': {'signals': (name,)}} for name in _SIGNALS},
  'gate, hidden state alone': {'gate': {'signals': ()}},
  'gate, without surprise': {'gate': {'signals': _SIGNALS[:3]}},
  'gate, pred_wrong': {'objective': {'target': 'pred_wrong'}},
  'gate, benefit': {'objective': {'target': 'benefit'}},
  'gate, marginal': {'objective': {'loss': 'marginal'}},
  'gate, relaxed': {'objective': {'loss': 'relaxed'}},
  'gate, straight through': {'objective': {'loss': 'straight_through'}},
  'gate, sparse': {'objective': {'sparsity': 0.1}},
  'gate, steady': {'objective': {'variation': 0.05}},
  'gate, sparse and steady': {'objective': {'sparsity': 0.1, 'variation': 0.05}},
  'gate, denoiser tuned along': {  # a step costs five times as much
    'objective': {'denoising_weight': 1.0},
    'train': {'steps': 100},
  },
}

_GATE = {'doubt': 'gate', 'prior_scale': 0.0, 'threshold': (0.5, 0.5), 'early_stop': False}

# By name: the revision, the same number of looks for all.
_METHODS = {
  'learned gate': _GATE,
  'learned gate, sure': {**_GATE, 'threshold': (0.7, 0.7), 'accept': 'any'},
  'fixed schedule': {'doubt': 'prior', 'select': 'bernoulli'},
  'uniform': {'doubt': 'uniform', 'select': 'bernoulli'},
  'random': {'doubt': 'random', 'select': 'budget'},
  'confidence': {'doubt': 'confidence', 'select': 'budget'},
  'confidence, masked': {'doubt': 'confidence', 'select': 'budget', 'write': 'mask'},
  'oracle': {'doubt': 'oracle', 'threshold': (0.5, 0.5)},
}

# By name: how the decision of the learned gate is changed.
_DECISIONS = {
  'with prior': {'prior_scale': 0.15},
  'prior alone': {'doubt': 'prior', 'prior_scale': 1.0},
  'bernoulli': {'select': 'bernoulli'},
  'budget': {'select': 'budget'},
  'lower threshold': {'threshold': (0.3, 0.3)},
  'higher threshold': {'threshold': (0.7, 0.7)},
  'early': {'phase': 'early'},
  'late': {'phase': 'late'},
  'span of one neighbour': {'span': 1},
  'no repeats': {'no_repeats': True},
  'accepted by either': {'accept': 'either'},
  'accepted always': {'accept': 'any'},
  'drawn': {'write': 'drawn'},
  'masked': {'write': 'mask'},
  'early stop': {'early_stop': True},
  'no cooldown': {'cooldown': 0},
}


def get_config() -> ConfigDict:
  c = ConfigDict()
  c.seeds = (0, 1, 2)
  c.common = ConfigDict({'data': {'source': 'builtin', 'valid_source': ''}})

  c.models = ConfigDict()
  c.models.hybrid = base.model('epsilon_hybrid', {'train': {'steps': 5000}}, per_seed=False)
  shared = {'tokenizer': {'path': '@hybrid/tokenizer.model'}, 'train': {'steps': 1500}}
  c.models.judge = base.model('ar', shared, per_seed=False)
  c.models.drafter = base.model('ar', {**shared, 'seed': 1}, per_seed=False)
  for name, override in _GATES.items():
    override = {'init_from': '@hybrid', **override}
    c.models[name] = base.model('gate', override, per_seed=name == 'gate')

  c.runs = ConfigDict()
  for name, revision in _METHODS.items():
    model = 'gate' if name.startswith('learned gate') else 'hybrid'
    revision = {'early_stop': False, **revision}
    c.runs[name] = _repair('methods', model, revision, _SHARES)
    if name != 'oracle':  # nobody knows what a draft should have been
      c.runs[f'{name}, drafts'] = _drafts(name, model, revision)
  c.runs['linear gate, untrained'] = _repair('methods', 'hybrid', _GATE, _SHARES)
  c.runs['no revision, drafts'] = _drafts('no revision', 'hybrid', {}, steps=(0,))
  c.runs['no revision, drafts'].grid.draft = ('ar', 'diffusion', 'corrupted')
  for name in _GATES:
    if name != 'gate':
      c.runs[name] = _repair('training', name, _GATE, (0.15,))
  for name, change in _DECISIONS.items():
    c.runs[name] = _repair('decision', 'gate', {**_GATE, **change}, (0.15,))
  for steps in (1, 2, 4, 16):
    c.runs[f'{steps} looks'] = _repair('looks', 'gate', _GATE, (0.15,), steps=(steps,))
  return c


def _repair(group, model, revision, corrupted, steps=(8,)) -> ConfigDict:
  grid = {'corrupted': corrupted, 'steps': steps}
  return ConfigDict(
    dict(task='repair', group=group, model=model, num_texts=32, revision=revision, grid=grid)
  )


def _drafts(title, model, revision, steps=(2, 4, 8, 16)) -> ConfigDict:
  grid = {'draft': ('ar', 'diffusion', 'masks', 'corrupted'), 'steps': steps}
  run = dict(task='drafts', group='drafts', title=title, model=model, revision=revision, grid=grid)
  return ConfigDict(run | dict(judge='judge', drafter='drafter', draft_steps=8, num_texts=32))
