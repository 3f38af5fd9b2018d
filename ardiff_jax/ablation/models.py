"""What the tasks of a sweep work on: its models, and texts that none of them was trained on."""

from collections.abc import Callable
from typing import Any

import numpy as np

import ardiff_jax
from ardiff_jax.data.packing import Packed, pack
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import sets
from ardiff_jax.evaluation.text import training_corpus
from ardiff_jax.judging import reading
from ardiff_jax.model import Model


class Models:
  """The models of a sweep by name and seed, each loaded once.

  Attributes:
    kept: what tasks share between their runs, by a key of their own.
  """

  def __init__(self, directory_of: Callable[[str, int], Any]):
    self._directory_of = directory_of
    self._loaded: dict[Any, Model] = {}
    self._texts: dict[Any, Packed] = {}
    self.kept: dict[Any, Any] = {}

  def __call__(self, name: str, seed: int) -> Model:
    directory = self._directory_of(name, seed)
    if directory not in self._loaded:
      self._loaded[directory] = ardiff_jax.load(directory)
    return self._loaded[directory]

  def text(self, name: str, seed: int, data: str) -> Packed:
    """Returns 'valid', or what `sets.read` takes, as a model reads it."""
    model, directory = self(name, seed), self._directory_of(name, seed)
    key = data, str(model.config.data), frozenset(model.tokenizer.files.items())
    if key not in self._texts:
      if data != 'valid':
        documents = sets.read(data)
      elif (corpus := training_corpus(directory, model.config)) is not None:
        documents = corpus.valid
      else:
        raise UserError(f'{directory} was imported and has no validation text of its own')
      self._texts[key] = pack(documents, model.tokenizer, model.config.data.length)
    return self._texts[key]

  def valid_texts(self, name: str, seed: int, count: int) -> np.ndarray:
    """Returns int32[N, L], other validation texts for every seed."""
    valid = self.text(name, seed, 'valid')
    shift = np.random.default_rng(seed).random()
    rows = (len(valid) * (np.arange(count) + shift) / count).astype(int)
    return np.stack([valid[int(row)]['tokens'] for row in rows])


def judge_of(models: Models, judge: str, model: Model, seed: int) -> Model:
  """Returns the model of the sweep that judges another.

  Raises:
    UserError: it cannot.
  """
  judging_model = models(judge, seed)
  reading.check(judging_model, model.tokenizer, model.config.data.length)
  return judging_model


def judge_nats(models: Models, judge: str, model: Model, seed: int, tokens: np.ndarray) -> float:
  """Returns the nats per token that `judge_of` gives to int32[N, L]."""
  return float(reading.nats(judge_of(models, judge, model, seed), tokens).mean())


def plain(metrics: dict[str, Any]) -> dict[str, float]:
  """Returns the metrics as numbers that JSON knows."""
  return {name: float(value) for name, value in metrics.items()}
