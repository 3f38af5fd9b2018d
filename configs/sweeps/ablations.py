"""One setting at a time: `--sweep=configs/sweeps/ablations.py:NAME`, for a NAME of `_ABLATIONS`.

  python -m ardiff_jax.ablate --sweep=configs/sweeps/ablations.py:epsilon --workdir=runs/epsilon

Every model sees the same tokens, for 800 updates: `:NAME,400` for 400. Likelihoods are of the
validation text and of WikiText (in $ARDIFF_DATA, see `ardiff_jax/evaluation/sets.py`); where models
share a tokenizer, texts are judged by an autoregressive model.
"""

from ml_collections import ConfigDict

from configs.sweeps import base


def _rows(name: str, width: int) -> dict:
  """Returns the override of a hyperschedule that tiles the text, with as many levels as `flat`."""
  rows = {'name': name, 'width': width, 'num_levels': 1024}
  return {'hyperschedule': rows, 'objective': {'doubled': True, 'time_range': (0.0, 1.0)}}


_LEVELS = (1, 4, 16, 64, 1024)

# By name, then by title: config, override, what is sampled how; None if nothing is.
_ABLATIONS = {
  'hyperschedule': {
    'autoregressive': ('ar', {}, {}),
    'flat': ('mdlm', {}, {'steps': 32}),
    **{f'block {w}': ('mdlm', _rows('block', w), {'steps': 4}) for w in (4, 16, 64)},
    **{f'slide {w}': ('mdlm', _rows('slide', w), {'steps': 16}) for w in (16, 64)},
    'hybrid 16': ('mdlm', _rows('hybrid', 16), {'steps': 16}),
  },
  'epsilon': {
    f'ε = {x:g}': ('epsilon_hybrid', {'noise': {'epsilon': x}}, {'steps': 32})
    for x in (0.0, 0.01, 0.1)
  },
  'visible_weight': {
    f'λ = {x:g}': ('epsilon_hybrid', {'objective': {'visible_weight': x}}, {'steps': 32})
    for x in (0.0, 0.3, 1.0, 3.0)
  },
  'gamma': {
    f'γ = {x:g}': ('gamma_hybrid', {'noise': {'gamma': x}}, {'steps': 32}) for x in (0.0, 0.01, 0.1)
  },
  'alignment': {
    f'{config}, {x}': (config, {'denoiser': {'alignment': x}}, {'steps': steps})
    for config, steps in (('mdlm', 32), ('bd3lm', 4), ('epsilon_hybrid', 32))
    for x in ('aligned', 'shifted')
  },
  'context': {
    x: ('bd3lm', {'denoiser': {'context': x}}, {'steps': 4}) for x in ('causal', 'block_causal')
  },
  'levels': {'BD3-LM': ('bd3lm', {}, {'steps': (1, 4, 16)})},  # training is in continuous time
  'eta': {
    f'η = {x:g}': ('epsilon_hybrid', {}, {'sampler': 'acs', 'eta': x, 'steps': (16, 64)})
    for x in (0.0, 0.005, 0.015, 0.05)
  },
  'steps': {
    config: (config, {}, {'steps': steps})
    for config, steps in (
      ('mdlm', (4, 16, 64, 256)),
      ('epsilon_hybrid', (4, 16, 64, 256)),
      ('bd3lm', (1, 4, 16, 64)),
    )
  },
  'tokenizer': {
    'bytes': ('mdlm', {'tokenizer': {'kind': 'byte'}}, None),
    **{f'{x} pieces': ('mdlm', {'tokenizer': {'vocab_size': x}}, None) for x in (512, 2048, 8192)},
  },
}


def get_config(what: str = '') -> ConfigDict:
  name, _, updates = what.partition(',')
  if name not in _ABLATIONS:
    raise ValueError(f'after the colon must be one of {", ".join(_ABLATIONS)}, got {name!r}')
  c = ConfigDict()
  c.seeds = (0, 1)
  c.common = ConfigDict(
    {
      'data': {'source': 'builtin', 'valid_source': ''},
      'train': {'steps': base.parse_updates(updates or '800')},
    }
  )
  c.models, c.runs = ConfigDict(), ConfigDict()
  judged = any(sampling is not None for _, _, sampling in _ABLATIONS[name].values())
  shared = {}
  if judged:
    c.models.judge = base.model('ar', {'seed': 7}, per_seed=False)
    shared = {'tokenizer': {'path': '@judge/tokenizer.model'}}
  for title, (config, override, sampling) in _ABLATIONS[name].items():
    entry, key = base.model(config, {**shared, **override}), title.replace('.', ',')
    model = next((known for known, x in c.models.items() if x == entry), key)
    if model == key:  # not the same as one before
      c.models[model] = entry
      run = dict(model=model, title=title, num_texts=512, num_rows=8, task='perplexity')
      run |= dict(group='likelihood', grid={'data': ('valid', 'wikitext')})
      if name == 'levels':
        levels = tuple(f'block,width=16,num_levels={x}' for x in _LEVELS)
        run['grid']['hyperschedule'] = levels
      c.runs[f'{key}, likelihood'] = ConfigDict(run)
    if sampling is not None:
      grid = {key: x for key, x in sampling.items() if isinstance(x, tuple)}
      fixed = {key: x for key, x in sampling.items() if key not in grid}
      run = dict(model=model, title=title, num_texts=128, judge='judge', task='generation')
      run |= dict(group='generation', sampling=fixed, grid=grid)
      c.runs[f'{key}, generation'] = ConfigDict(run)
  return c
