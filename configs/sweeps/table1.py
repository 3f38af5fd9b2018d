"""Six methods on five sets of text they were not trained on, as in table 1 of HDLM (2504.06416).

  export ARDIFF_DATA=DIR
  python -m ardiff_jax.ablate  --sweep=configs/sweeps/table1.py --workdir=runs/table1
  python -m ardiff_jax.figures --sweep=runs/table1 --out=figures

The same tokens, batches and network for all: what differs is noise, hyperschedule and objective.
No network is told the noise level, and all predict the next token. Bounds are of 1,024 levels, for
fewer make them looser. Then all write texts at several temperatures, to be judged.
`--sweep=configs/sweeps/table1.py:400` trains for 400 updates instead of 600. The sets lie in
$ARDIFF_DATA, see `ardiff_jax/evaluation/sets.py`, as do the English novels that all are trained on;
`--sweep.common.data.source=FILE --sweep.common.data.valid_source=FILE` takes other text.
"""

from ml_collections import ConfigDict

from configs.sweeps import base

_SETS = ('valid', 'wikitext', 'lambada', 'pubmed', 'arxiv')

# By title: the config, and how it writes.
_METHODS = {
  'Transformer': ('ar', {}),
  'SEDD': ('sedd', {'sampler': 'analytic', 'steps': 32}),
  'MDLM': ('mdlm', {'sampler': 'ancestral', 'steps': 32}),
  'BD3-LM': ('bd3lm', {'sampler': 'ancestral', 'steps': 4}),
  'γ-hybrid': ('gamma_hybrid', {'sampler': 'ancestral', 'steps': 32}),
  'ε-hybrid': ('epsilon_hybrid', {'sampler': 'acs', 'steps': 32}),
}


def get_config(updates: str = '600') -> ConfigDict:
  updates = base.parse_updates(updates)
  c = ConfigDict()
  c.seeds = (0, 1)
  c.common = ConfigDict(
    {
      'data': base.novels(),
      'denoiser': {'alignment': 'shifted'},
      'hyperschedule': {'num_levels': 1024},
      'model': {'conditioning': 'none'},
      'train': {'steps': updates},
    }
  )
  c.models = ConfigDict()
  c.models.judge = base.model('ar', {'seed': 7}, per_seed=False)
  for config, _ in _METHODS.values():
    c.models[config] = base.model(config, {'tokenizer': {'path': '@judge/tokenizer.model'}})

  c.runs = ConfigDict()
  for title, (config, sampling) in _METHODS.items():
    run = dict(model=config, title=title, num_texts=512, num_rows=4)
    c.runs[f'{title}, perplexity'] = ConfigDict(
      dict(run, task='perplexity', group='perplexity', grid={'data': _SETS})
    )
    run |= dict(task='generation', group='generation', num_texts=128, judge='judge')
    grid = {'temperature': (0.7, 0.85, 1.0)}
    c.runs[f'{title}, generation'] = ConfigDict(dict(run, sampling=sampling, grid=grid))
  run = dict(task='released', group='exact and released rate of the γ-hybrid', title='γ-hybrid')
  run |= dict(model='gamma_hybrid', num_texts=512, num_rows=4, grid={'data': _SETS})
  c.runs['γ-hybrid, released'] = ConfigDict(run)
  return c
