"""Drafts refined as a guidance asks, against the model that drafted them, alone.

  export ARDIFF_DATA=DIR
  python -m ardiff_jax.ablate --sweep=configs/sweeps/draft_refine.py --workdir=runs/draft_refine

Trains an autoregressive judge; from a plain autoregressive model one that drafts and knows
guidance; from a plain hybrid a refiner of tokens, and a gate on top of that; and a refiner of
latents. Then drafts are refined at several strengths, to be mended (`refine`), to have an attribute
(`control`), or to be rewritten in another gender (`neutralise`); and some by as many tries as fit
256 network calls, the draft's included. (The gate would give the same text at each try.)

`--sweep=configs/sweeps/draft_refine.py:600` teaches guidance for 600 updates instead of 1,200, to
latents, which start from nothing, for 1,200 instead of 2,400. The text is that of table1.py, and
`--sweep.models.NAME.workdir=DIR` takes a finished judge, plain or hybrid model.
"""

from ml_collections import ConfigDict

from configs.sweeps import base

_STRENGTHS = (0.1, 0.2, 0.4, 0.8)
_ASKED = ('refine', 'control', 'neutralise')


def get_config(updates: str = '1200') -> ConfigDict:
  updates = base.parse_updates(updates)
  c = ConfigDict()
  c.seeds = (0, 1)
  c.common = ConfigDict({'data': base.novels()})

  c.models = ConfigDict()
  c.models.hybrid = base.model('epsilon_hybrid', {'train': {'steps': 5000}}, per_seed=False)
  shared = {'tokenizer': {'path': '@hybrid/tokenizer.model'}}
  plain = {**shared, 'train': {'steps': 1500}}
  c.models.judge = base.model('ar', plain, per_seed=False)
  c.models.plain = base.model('ar', {**plain, 'seed': 1}, per_seed=False)
  guided = {'train': {'steps': updates}, 'data': {'guided': True}}
  c.models.drafter = base.model('ar', {**guided, 'init_from': '@plain'})
  c.models.refiner = base.model('draft_refine', {**guided, 'init_from': '@hybrid'})
  c.models.latent = base.model(
    'latent_refiner', {**guided, **shared, 'train': {'steps': 2 * updates}}
  )
  gate = {'init_from': '@refiner', 'train': {'steps': updates // 4}}
  c.models.gate = base.model('gate', {**gate, 'data': {'guided': True}})

  c.runs = ConfigDict()
  strengths, some = {'strength': _STRENGTHS}, {'strength': (0.2, 0.4)}
  again = {**some, 'most_calls': (256,)}
  few, doubtful = {'budget': 0.1}, {'sampling': {'sampler': 'acs_confidence'}}
  cool = {'sampling': {'sampler': 'acs_confidence', 'temperature': 0.5}}
  for title, model, refiner, grid, settings in (
    ('AR alone', 'drafter', 'ar', {'most_calls': (64, 128, 256)}, {}),
    ('token', 'refiner', 'token', strengths, {}),
    ('token, few edits', 'refiner', 'token', strengths, few),
    ('token, doubtful first', 'refiner', 'token', strengths, doubtful),
    ('token, doubtful first, equal calls', 'refiner', 'token', again, doubtful),
    ('token, cool', 'refiner', 'token', strengths, cool),
    ('token, cool, equal calls', 'refiner', 'token', again, cool),
    ('gate', 'gate', 'gate', {'strength': (0.3, 0.5, 0.7, 0.9)}, {}),
    ('latent', 'latent', 'latent', strengths, {}),
    ('latent, equal calls', 'latent', 'latent', again, {}),
    ('latent, guided', 'latent', 'latent', some, {'sampling': {'guidance_scale': 3.0}}),
    ('latent, clamped', 'latent', 'latent', some, {'sampling': {'clamp': 0.5}}),
  ):
    run = dict(task='refine', model=model, refiner=refiner, title=title, num_texts=64)
    run |= dict(judge='judge', drafter='drafter', budget=0.0, sampling={}) | settings
    for asked in _ASKED:
      c.runs[f'{title}, {asked}'] = _run(run, asked, asked, 'corrupted', grid)
    c.runs[f'{title}, refine drafts'] = _run(run, 'refine', 'refine drafts of AR', 'ar', grid)
  return c


def _run(run: dict, asked: str, group: str, draft: str, grid: dict) -> ConfigDict:
  return ConfigDict(run | dict(group=group, draft=draft, grid={'asked': (asked,), **grid}))
