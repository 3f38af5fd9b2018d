"""What sweeps share: entries of their models, text, and the number after the colon."""

from ml_collections import ConfigDict

from ardiff_jax.evaluation import sets


def parse_updates(text: str) -> int:
  """Returns the updates that `--sweep=FILE.py:UPDATES` asks for.

  Raises:
    ValueError: it is no number from 12 up.
  """
  if not text.isdecimal() or int(text) < 12:
    raise ValueError(f'after the colon must be a number of updates from 12 up, got {text!r}')
  return int(text)


def novels() -> dict:
  """Returns `config.data` of English novels (ELTeC-eng, split by book) in $ARDIFF_DATA."""
  folder = sets.FOLDER / 'eltec_eng'
  return {'source': str(folder / 'train.txt'), 'valid_source': str(folder / 'valid.txt')}


def model(config: str, override: dict, per_seed: bool = True) -> ConfigDict:
  """Returns the entry of a model of configs/CONFIG.py:tiny; with a `workdir`, it is not trained."""
  return ConfigDict(
    {
      'config': f'configs/{config}.py:tiny',
      'override': override,
      'per_seed': per_seed,
      'workdir': '',
    }
  )
