"""Tasks of models that generate in one order or another.

likelihood  nats of validation texts, generated in an order
infilling   the middle of validation texts is filled in; how much of it is as it was
choices     multiple choice
generation  texts from nothing, under a judge
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from ml_collections import ConfigDict
from rouge_score import rouge_scorer

from ardiff_jax import method as method_lib
from ardiff_jax.ablation.models import Models, judge_of, plain
from ardiff_jax.data.packing import Packed
from ardiff_jax.evaluation import choices as choices_lib
from ardiff_jax.judging import generated

_OF_REAL = 'real_judge_nats', 'real_entropy'  # what is said of real text beside each method
_ROUGE = 'rouge1', 'rouge2', 'rougeL'


def likelihood(models: Models, run: ConfigDict, settings: Mapping, seed: int) -> dict[str, Any]:
  """`order` of the settings is a hyperschedule such as 'shuffled,width=4,seed=0', or '' for that of
  the model."""
  model = models(run.model, seed)
  texts = models.text(run.model, seed, 'valid').spread(run.num_texts)  # the same for all seeds
  method = model.method
  if settings['order']:
    schedule = method_lib.parse_hyperschedule(settings['order'], texts.shape[1])
    method = method_lib.measured_on(method, schedule, own_chain=False)
  packed = Packed(texts.reshape(-1), texts.shape[1], 0)
  result = model.likelihood(packed, num_samples=run.num_rows or None, seed=seed, method=method)
  figures = _figures(
    {
      'nats': result.nll_per_token,
      'stderr': result.stderr or 0.0,
      'exact': result.kind == 'exact',
    }
  )
  return figures | {'law': result.law}


def infilling(models: Models, run: ConfigDict, settings: Mapping, seed: int) -> dict[str, Any]:
  """`blank` of the settings is the share of the text that is blanked, in its middle; `steps` and
  `sampler` say how it is filled."""
  model = models(run.model, seed)
  texts = models.text(run.model, seed, 'valid').spread(run.num_texts)
  length = texts.shape[1]
  size = max(1, round(settings['blank'] * length))
  blank = np.zeros(texts.shape, bool)
  start = (length - size) // 2
  blank[:, start : start + size] = True
  samples = model.sample(
    len(texts), tokens=texts, given=~blank, seed=seed, **_sampling(run, settings)
  )
  filled = np.array([sample.token_ids for sample in samples])
  scorer = rouge_scorer.RougeScorer(_ROUGE, use_stemmer=False)
  decode = model.tokenizer.decode
  scores = [
    scorer.score(decode(truth[hole]), decode(ours[hole]))
    for truth, ours, hole in zip(texts, filled, blank, strict=True)
  ]
  metrics = {name: np.mean([score[name].fmeasure for score in scores]) for name in _ROUGE}
  metrics['exact_tokens'] = (filled == texts)[blank].mean()
  return _figures(metrics | {'calls': samples[0].network_calls})


def choices(models: Models, run: ConfigDict, settings: Mapping, seed: int) -> dict[str, Any]:
  """`file` of the settings holds the items, of which `max_items` of the run are tried."""
  model = models(run.model, seed)
  items = choices_lib.read(settings['file'])
  few = np.random.default_rng(seed).permutation(len(items))[: run.max_items]
  rows = choices_lib.encode(
    [items[i] for i in sorted(few)], model.tokenizer, model.config.data.length, 'skip'
  )
  nats = model.sequence_nats(
    rows.tokens,
    rows.counted,
    num_samples=run.num_rows or None,
    seed=seed,
    numbers=rows.numbers,
  )
  score = choices_lib.score(rows.items, nats)
  return _figures(
    {
      'accuracy': score.accuracy,
      'accuracy_per_byte': score.accuracy_per_byte,
      'chance': score.chance,
      'items': len(rows.items),
      'too_long': len(few) - len(rows.items),
    }
  )


def generation(models: Models, run: ConfigDict, settings: Mapping, seed: int) -> dict[str, Any]:
  """`sampler`, `steps` and `hyperschedule` of the run or the settings say how; `judge` judges."""
  model = models(run.model, seed)
  samples = model.sample(run.num_texts, seed=seed, **_sampling(run, settings))
  tokens = np.array([sample.token_ids for sample in samples], np.int32)
  judge = judge_of(models, run.judge, model, seed)
  real = models.text(run.model, seed, 'valid').spread(2 * run.num_texts)
  metrics = generated.measure(judge, tokens, real)
  notes = {name: metrics.pop(name) for name in ('flag', 'refused')}
  notes['dtype'] = model.config.model.dtype  # of the network; draws are in float32
  metrics = {
    name: value
    for name, value in metrics.items()
    if value is not None and (not name.startswith('real_') or name in _OF_REAL)
  }
  return _figures(metrics | {'calls': samples[0].network_calls}) | notes


def _sampling(run: ConfigDict, settings: Mapping) -> dict[str, Any]:
  """Arguments of `Model.sample` that the settings, or else the run, name."""
  named = {**run.get('sampling', ConfigDict()), **settings}
  known = ('sampler', 'steps', 'hyperschedule', 'temperature', 'eta')
  return {name: named[name] for name in known if named.get(name) is not None}


def _figures(metrics: dict[str, Any]) -> dict[str, Any]:
  return {'metrics': plain(metrics)}
