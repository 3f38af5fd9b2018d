"""The text that a run was trained on, found again."""

import pathlib

from ml_collections import ConfigDict

from ardiff_jax import workdir
from ardiff_jax.data.corpus import Corpus, load_corpus


def training_corpus(directory: pathlib.Path, config: ConfigDict) -> Corpus:
  """Returns the corpus of a run, training and valid texts.

  Raises:
    UserError: it cannot be read, or has changed since.
  """
  corpus = load_corpus(config.data)
  old = workdir.read(directory)
  workdir.check_same_run(
    directory, old, {**old, 'corpus': {'name': corpus.name, **corpus.identity}}
  )
  return corpus
