"""The text that a run was trained on, found again."""

import pathlib

from ml_collections import ConfigDict

from ardiff_jax import workdir
from ardiff_jax.data.corpus import Corpus, load_corpus


def training_corpus(directory: pathlib.Path, config: ConfigDict) -> Corpus | None:
  """Returns the corpus of a run, training and valid texts; None of an imported model.

  Raises:
    UserError: it cannot be read, or has changed since.
  """
  then = workdir.read(directory)
  if 'imported' in then:
    return None
  corpus = load_corpus(config.data)
  now = {**then, 'corpus': {'name': corpus.name, **corpus.identity}}
  workdir.check_same_run(directory, then, now)
  return corpus
