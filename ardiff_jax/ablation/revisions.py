"""Tasks of revisions: what an overwrite gate, and what it is compared with, make of texts.

  repair   tokens of validation texts are replaced by others; how much of that a revision mends
  drafts   texts from different drafts are revised; how likely a judge finds them

A task maps (models, run, settings, seed) to the figures of one record: `metrics`, `signals` per
step, and `edit_map`, the share of texts edited at each step in each part of the text.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict

from ardiff_jax.ablation.models import Models, judge_nats, plain
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import samples as measures
from ardiff_jax.generation import Sample

_BATCHES = 8  # in which texts are revised, to see how long that takes; the first may compile
_PARTS = 32  # of a text, in an edit map
DRAFTS = ('ar', 'diffusion', 'masks', 'corrupted')


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
  return _record(metrics, revised, wrong, model.tokenizer.vocab_size)


def drafts(models: Models, run: ConfigDict, settings: Mapping, seed: int) -> dict[str, Any]:
  """Revises drafts of the kind `draft` of the settings in `steps` looks, and has them judged; with
  `steps` 0, judges the drafts."""
  model = models(run.model, seed)
  draft, draft_calls = draft_of(models, run, settings['draft'], seed)
  steps = settings['steps']
  if not steps and draft is None:
    raise UserError('a draft of masks is no text to be judged')
  revised = []
  if steps:
    revised = _revise(model, draft, run.num_texts, run.revision.to_dict(), steps, seed)
  tokens = np.array([sample.token_ids for sample in revised]) if steps else draft
  metrics = {
    'judge_nats': judge_nats(models, run.judge, model, seed, tokens),
    'entropy': measures.entropies(tokens).mean(),
    'distinct_2': measures.distinct(tokens, 2),
    'repeats': measures.repeats(tokens),
    'draft_calls': draft_calls,
  }
  return _record(metrics, revised, draft, model.tokenizer.vocab_size)


def draft_of(
  models: Models, run: ConfigDict, kind: str, seed: int
) -> tuple[np.ndarray | None, int]:
  """Returns int32[N, L] and the network calls it took: the same for all methods, as models with a
  gate and without draft alike.

  Raises:
    UserError: `kind` is none of DRAFTS.
  """
  key = 'draft', kind, seed, run.model, run.num_texts, run.drafter, run.draft_steps
  if key not in models.kept:
    models.kept[key] = _new_draft(models, run, kind, seed)
  return models.kept[key]


def _new_draft(models, run, kind, seed):
  model = models(run.model, seed)
  if kind == 'masks':
    return None, 0
  if kind == 'corrupted':
    texts = models.valid_texts(run.model, seed, run.num_texts)
    return measures.corrupt(texts, 0.15, model.tokenizer.vocab_size, seed), 0
  if kind == 'ar':
    drafts = models(run.drafter, seed).sample(run.num_texts, seed=seed)
  elif kind == 'diffusion':
    drafts = model.sample(run.num_texts, seed=seed, sampler='ancestral', steps=run.draft_steps)
  else:
    raise UserError(f'draft {kind!r} must be one of {", ".join(DRAFTS)}')
  return np.array([draft.token_ids for draft in drafts], np.int32), drafts[0].network_calls


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


def _record(
  metrics: dict, revised: list[Sample], draft: np.ndarray | None, vocab_size: int
) -> dict[str, Any]:
  """Adds what every revision is asked: edits, true calls, time."""
  if not revised:
    return {'metrics': plain(metrics | {'edits': 0.0, 'calls': 0.0})}
  notes = {name: np.array([x.notes[name] for x in revised]) for name in revised[0].notes}
  live = notes['live']
  traces = np.array([sample.trace for sample in revised])
  length = traces.shape[-1]
  start = np.full((len(traces), length), vocab_size) if draft is None else draft
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
    'metrics': plain(metrics),
    'signals': signals,
    'edit_map': np.stack(parts, axis=1).round(4).tolist(),
  }
