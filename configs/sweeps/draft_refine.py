"""Drafts refined as a guidance asks, against the model that drafted them, alone.

  python -m ardiff_jax.ablate --sweep=configs/sweeps/draft_refine.py --workdir=runs/draft_refine

Trains an autoregressive judge, another that drafts and knows guidance, a refiner of tokens, a gate
on top of it, and a refiner of latents; then has drafts refined at several strengths, to be mended
(`refine`), to have an attribute (`control`), or to be rewritten in another gender (`neutralise`).
`--sweep=configs/sweeps/draft_refine.py:600` trains for 600 updates instead of 1,200.
"""

from ml_collections import ConfigDict

_STRENGTHS = (0.1, 0.2, 0.4, 0.8)
_ASKED = ('refine', 'control', 'neutralise')


def get_config(updates: str = '1200') -> ConfigDict:
  if not updates.isdecimal() or int(updates) < 12:
    raise ValueError(f'after the colon must be a number of updates from 12 up, got {updates!r}')
  updates = int(updates)
  c = ConfigDict()
  c.seeds = (0, 1)
  c.common = ConfigDict({'data': {'source': 'builtin', 'valid_source': ''}})

  c.models = ConfigDict()
  c.models.judge = _model('ar', {'train': {'steps': updates}, 'seed': 7}, per_seed=False)
  shared = {'tokenizer': {'path': '@judge/tokenizer.model'}, 'train': {'steps': updates}}
  c.models.drafter = _model('ar', {**shared, 'data': {'guided': True}})
  c.models.refiner = _model('draft_refine', shared)
  c.models.latent = _model('latent_refiner', shared)
  gate = {'init_from': '@refiner', 'train': {'steps': updates // 4}}
  c.models.gate = _model('gate', {**gate, 'data': {'guided': True}})

  c.runs = ConfigDict()
  for title, model, refiner, grid in (
    ('AR alone', 'drafter', 'ar', {'tries': (1, 2, 4)}),
    ('token', 'refiner', 'token', {'strength': _STRENGTHS}),
    ('token, few edits', 'refiner', 'token', {'strength': _STRENGTHS}),
    ('gate', 'gate', 'gate', {'strength': (0.3, 0.5, 0.7, 0.9)}),
    ('latent', 'latent', 'latent', {'strength': _STRENGTHS}),
    ('latent, guided', 'latent', 'latent', {'strength': _STRENGTHS}),
  ):
    run = dict(task='refine', model=model, refiner=refiner, title=title, num_texts=64)
    run |= dict(judge='judge', drafter='drafter', sampling={})
    run['budget'] = 0.1 if title == 'token, few edits' else 0.0
    if title == 'latent, guided':
      run['sampling'] = {'guidance_scale': 3.0}
    for asked in _ASKED:
      c.runs[f'{title}, {asked}'] = _run(run, asked, asked, 'corrupted', grid)
    c.runs[f'{title}, refine drafts'] = _run(run, 'refine', 'refine drafts of AR', 'ar', grid)
  return c


def _run(run: dict, asked: str, group: str, draft: str, grid: dict) -> ConfigDict:
  return ConfigDict(run | dict(group=group, draft=draft, grid={'asked': (asked,), **grid}))


def _model(config: str, override: dict, per_seed: bool = True) -> ConfigDict:
  return ConfigDict(
    {
      'config': f'configs/{config}.py:tiny',
      'override': override,
      'per_seed': per_seed,
      'workdir': '',
    }
  )
