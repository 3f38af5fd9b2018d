"""Any order, adaptation and their baselines at equal tokens.

  python -m ardiff_jax.ablate --sweep=configs/sweeps/any_order.py --workdir=runs/any_order \\
    --sweep.choices="('hellaswag_val.jsonl','piqa.jsonl','winogrande.jsonl')"

Autoregression; A3 in stages and with the last stage alone; diffusion models adapted from one
autoregressive model of half the updates, with a window that opens or is open at once, and without
the shift; and an MDLM from scratch. All see as many tokens, those of what they start from included;
`--sweep=configs/sweeps/any_order.py:600` trains for 600 updates instead of 1,200.

Order '' is that of training: of flat models the bound of all positions together. In the other
orders a flat model is asked what it was not trained for, with what is not generated yet hidden.
"""

from ml_collections import ConfigDict

from configs.sweeps import base

_ORDERS = (
  'autoregressive',
  'shuffled,width=1,seed=0',
  'block,width=2,num_levels=1',
  'block,width=4,num_levels=1',
  'block,width=8,num_levels=1',
  'shuffled,width=4,seed=0',
  'strided,width=8',
  'shuffled,width=64,seed=0',  # two groups
)

_STEPS = 4, 16, 64

# By title: the model, and how it generates and fills in.
_METHODS = {
  'AR': ('ar', {}),
  'A3': ('a3', {'sampler': 'unmask_confidence'}),
  'A3, last stage alone': ('a3 last', {'sampler': 'unmask_confidence'}),
  'adapted': ('adapted', {'sampler': 'unmask_confidence'}),
  'adapted, open at once': ('adapted open', {'sampler': 'unmask_confidence'}),
  'adapted, aligned': ('adapted aligned', {'sampler': 'unmask_confidence'}),
  'MDLM': ('mdlm', {'sampler': 'unmask_confidence'}),
}


def get_config(updates: str = '1200') -> ConfigDict:
  updates = base.parse_updates(updates)
  half = updates // 2
  c = ConfigDict()
  c.seeds = (0, 1)
  c.choices = ()  # files of multiple choices
  c.common = ConfigDict({'data': {'source': 'builtin', 'valid_source': ''}})

  shared = {'tokenizer': {'path': '@judge/tokenizer.model'}}
  steps, half_steps = {'train': {'steps': updates}}, {'train': {'steps': half}}
  c.models = ConfigDict()
  c.models.judge = base.model('ar', {**steps, 'seed': 7}, per_seed=False)
  c.models.ar = base.model('ar', {**shared, **steps})
  c.models['ar half'] = base.model('ar', {**shared, **half_steps})
  c.models.a3 = base.model('a3', {**shared, **steps})
  last = {'stages': ((0.0, 4, 1.0, 0.5),)}
  c.models['a3 last'] = base.model('a3', {**shared, **steps, 'objective': last})
  adapted = {**half_steps, 'init_from': '@ar half'}
  for name, opening in (('adapted', half // 2), ('adapted open', 0)):
    objective = {'causal_steps': 0, 'anneal_steps': opening}
    c.models[name] = base.model('adapt', {**adapted, 'objective': objective})
  c.models['adapted aligned'] = base.model('mdlm', adapted)
  c.models.mdlm = base.model('mdlm', {**shared, **steps})

  c.runs = ConfigDict()
  for title, (model, sampling) in _METHODS.items():
    run = dict(model=model, title=title, num_rows=8, judge='judge')
    orders, steps = ('', *_ORDERS), _STEPS
    if model == 'ar':
      orders, steps = ('',), (None,)
    elif model in ('a3', 'a3 last'):
      orders = _ORDERS  # the first is that of training
    elif model in ('adapted', 'adapted open'):  # shifted: from left to right alone
      orders = ('', 'autoregressive', 'block,width=4,num_levels=1')
    run['sampling'] = sampling
    grids = {
      'likelihood': {'order': orders},
      'infilling': {'blank': (0.25,), 'steps': steps[:2]},
      'generation': {'steps': steps},
    }
    for task, grid in grids.items():
      run['num_texts'] = 64 if task == 'generation' else 128
      c.runs[f'{title}, {task}'] = ConfigDict(dict(run, task=task, group=task, grid=grid))
    run |= dict(task='choices', group='choices', num_rows=4, max_items=200)
    c.runs[f'{title}, choices'] = ConfigDict(dict(run, grid={'file': c.get_ref('choices')}))
  for sampler in ('unmask_random', 'unmask_entropy', 'unmask_confidence_in_order'):
    run = dict(task='generation', group='generation', model='a3', title=f'A3, {sampler}')
    run |= dict(num_texts=64, judge='judge', sampling={'sampler': sampler})
    c.runs[run['title']] = ConfigDict(dict(run, grid={'steps': (16,)}))
  for width in (1, 2, 4, 8):
    run = dict(task='generation', group='A3, a group a step', model='a3', title='A3')
    run |= dict(num_texts=64, judge='judge', sampling={'sampler': 'ancestral'})
    grid = {
      'hyperschedule': (f'block,width={width},num_levels=1', f'shuffled,width={width},seed=0')
    }
    c.runs[f'A3, groups of {width}'] = ConfigDict(dict(run, grid=grid))
  return c
