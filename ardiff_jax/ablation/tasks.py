"""What a sweep measures of its models.

  repair   tokens of validation texts are replaced by others; how much of that a revision mends
  drafts   texts from different drafts are revised; how likely a judge finds them

A task maps (models, run, settings, seed) to the figures of one record: `metrics`, `signals` per
step, and `edit_map`, the share of texts edited at each step in each part of the text.
"""

from collections.abc import Callable, Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

import ardiff_jax
from ardiff_jax.data.packing import Packed, pack
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import samples as measures
from ardiff_jax.evaluation.text import training_corpus
from ardiff_jax.generation import Sample
from ardiff_jax.model import Model

_BATCHES = 4  # in which texts are revised, to see how long that takes; the first may compile
_PARTS = 32  # of a text, in an edit map
DRAFTS = ('ar', 'diffusion', 'masks', 'corrupted')


class Models:
  """The models of a sweep by name and seed, each loaded once."""

  def __init__(self, directory_of: Callable[[str, int], Any]):
    self._directory_of = directory_of
    self._loaded: dict[Any, Model] = {}
    self._texts: dict[Any, Packed] = {}
    self._drafts: dict[Any, tuple[np.ndarray | None, int]] = {}

  def __call__(self, name: str, seed: int) -> Model:
    directory = self._directory_of(name, seed)
    if directory not in self._loaded:
      self._loaded[directory] = ardiff_jax.load(directory)
    return self._loaded[directory]

  def valid_texts(self, name: str, seed: int, count: int) -> np.ndarray:
    """Returns int32[N, L], other validation texts for every seed."""
    model, directory = self(name, seed), self._directory_of(name, seed)
    key = str(model.config.data), frozenset(model.tokenizer.files.items())
    if key not in self._texts:
      corpus = training_corpus(directory, model.config)
      if corpus is None:
        raise UserError(f'{directory} was imported and has no validation text of its own')
      self._texts[key] = pack(corpus.valid, model.tokenizer, model.config.data.length)
    valid = self._texts[key]
    shift = np.random.default_rng(seed).random()
    rows = (len(valid) * (np.arange(count) + shift) / count).astype(int)
    return np.stack([valid[int(row)]['tokens'] for row in rows])

  def draft(self, run: ConfigDict, kind: str, seed: int) -> tuple[np.ndarray | None, int]:
    """Returns int32[N, L] and the network calls it took: the same for all methods."""
    key = kind, seed, run.num_texts, run.drafter, run.get('draft_steps')
    if key not in self._drafts:
      self._drafts[key] = self._new_draft(run, kind, seed)
    return self._drafts[key]

  def _new_draft(self, run, kind, seed):
    model = self(run.model, seed)
    if kind == 'masks':
      return None, 0
    if kind == 'corrupted':
      texts = self.valid_texts(run.model, seed, run.num_texts)
      return measures.corrupt(texts, 0.15, model.tokenizer.vocab_size, seed), 0
    if kind == 'ar':
      drafts = self(run.drafter, seed).sample(run.num_texts, seed=seed)
    elif kind == 'diffusion':
      drafts = model.sample(run.num_texts, seed=seed, sampler='ancestral', steps=run.draft_steps)
    else:
      raise UserError(f'draft {kind!r} must be one of {", ".join(DRAFTS)}')
    return np.array([draft.token_ids for draft in drafts], np.int32), drafts[0].network_calls


def repair(models: Models, run: ConfigDict, settings: Mapping, seed: int) -> dict[str, Any]:
  """Revises corrupted validation texts: `corrupted` of the settings is the share of tokens that is
  replaced, `steps` the looks; `revision` of the run says how."""
  model = models(run.model, seed)
  before = models.valid_texts(run.model, seed, run.num_texts)
  wrong = measures.corrupt(before, settings['corrupted'], model.tokenizer.vocab_size, seed)
  revision = run.revision.to_dict()
  if revision.get('doubt') == 'oracle':
    revision['truth'] = before
  revised = _revise(model, wrong, len(before), revision, settings['steps'], seed)
  after = np.array([sample.token_ids for sample in revised])
  result = measures.repair(before, wrong, after)
  precision, recall = result.precision.mean(), result.recall.mean()
  metrics = {
    'fixed': result.fixed.mean(),
    'harmed': result.harmed.mean(),
    'precision': precision,
    'recall': recall,
    'f1': 2 * precision * recall / max(precision + recall, 1e-9),
    'auc': measures.area_under_curve(np.array([x.doubt for x in revised]), wrong != before),
  }
  return _record(metrics, revised, wrong)


def drafts(models: Models, run: ConfigDict, settings: Mapping, seed: int) -> dict[str, Any]:
  """Revises drafts of the kind `draft` of the settings in `steps` looks, and has them judged; with
  `steps` 0, judges the drafts."""
  model, judge = models(run.model, seed), models(run.judge, seed)
  if judge.tokenizer.files != model.tokenizer.files:
    raise UserError(f'judge {run.judge!r} has another tokenizer than {run.model!r}')
  draft, draft_calls = models.draft(run, settings['draft'], seed)
  steps = settings['steps']
  if not steps and draft is None:
    raise UserError('a draft of masks is no text to be judged')
  revised = []
  if steps:
    revised = _revise(model, draft, run.num_texts, run.revision.to_dict(), steps, seed)
  tokens = np.array([sample.token_ids for sample in revised]) if steps else draft
  judged = judge.likelihood(
    Packed(tokens.reshape(-1), tokens.shape[1], 0), num_samples=None, seed=0
  )
  metrics = {
    'judge_nats': judged.nll_per_token,
    'entropy': np.mean([ardiff_jax.generation.entropy(row) for row in tokens]),
    'distinct_2': measures.distinct(tokens, 2),
    'repeats': measures.repeats(tokens),
    'draft_calls': draft_calls,
  }
  return _record(metrics, revised, draft)


TASKS = {'repair': repair, 'drafts': drafts}


def _revise(model, draft, count, revision, steps, seed) -> list[Sample]:
  free = np.zeros((count, model.config.data.length), bool)
  return model.sample(
    count,
    tokens=np.zeros(free.shape, np.int32),
    given=free,
    draft=draft,
    sampler='revision',
    revision=revision,
    steps=steps,
    seed=seed,
    trace=True,
    batch_size=-(-count // _BATCHES),
  )


def _record(metrics: dict, revised: list[Sample], draft: np.ndarray | None) -> dict[str, Any]:
  """Adds what every revision is asked: edits, true calls, time."""
  if not revised:
    return {'metrics': _plain(metrics | {'edits': 0.0, 'calls': 0.0})}
  notes = {name: np.array([x.notes[name] for x in revised]) for name in revised[0].notes}
  live = notes['live']
  traces = np.array([sample.trace for sample in revised])
  length = traces.shape[-1]
  start = np.full((len(traces), length), -1) if draft is None else draft
  edits = np.diff(np.concatenate([start[:, None], traces], axis=1), axis=1) != 0
  parts = [part.mean(axis=(0, 2)) for part in np.array_split(edits, min(_PARTS, length), axis=2)]
  batch = -(-len(revised) // _BATCHES)
  seconds = np.unique([x.seconds for x in revised[batch:] or revised]) / batch
  metrics |= {
    'edits': (traces[:, -1] != start).sum(axis=1).mean(),
    'edits_per_step': notes['edited'].sum() / live.sum(),
    'calls': live.sum(axis=1).mean(),
    'early_stop': (live[:, -1] == 0).mean(),
    'seconds_p50': np.quantile(seconds, 0.5),
    'seconds_p95': np.quantile(seconds, 0.95),
  }
  shown = np.maximum(live.sum(axis=0), 1)
  signals = {name: ((x * live).sum(axis=0) / shown).round(5).tolist() for name, x in notes.items()}
  signals['live'] = live.mean(axis=0).tolist()
  return {
    'metrics': _plain(metrics),
    'signals': signals,
    'edit_map': np.stack(parts, axis=1).round(4).tolist(),
  }


def _plain(metrics: dict) -> dict[str, float]:
  return {name: float(value) for name, value in metrics.items()}
