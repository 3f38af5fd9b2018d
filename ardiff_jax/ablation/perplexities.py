"""Tasks of likelihoods on named sets of text.

perplexity  nats per token of a set: exact, or the bound
released    the exact rate of a γ-hybrid's bound against the weighting that was published in its
            stead, at the same times and noise

Shapes: N rows of text.
"""

import dataclasses
import functools
import math
from collections.abc import Mapping
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ml_collections import ConfigDict

from ardiff_jax import bounds, rng
from ardiff_jax import mesh as mesh_lib
from ardiff_jax import method as method_lib
from ardiff_jax.ablation.models import Models, plain
from ardiff_jax.data.packing import Packed


def perplexity(models: Models, run: ConfigDict, settings: Mapping, seed: int) -> dict[str, Any]:
  """`data` of the settings is 'valid' or what `sets.read` takes, of which `num_texts` rows of the
  run count, evenly spread, the same for all seeds; `hyperschedule` of the settings, if there is
  one, takes the place of the model's."""
  model = models(run.model, seed)
  text = models.text(run.model, seed, settings['data'])
  rows = text.spread(run.num_texts)
  method = model.method
  if settings.get('hyperschedule'):
    schedule = method_lib.parse_hyperschedule(settings['hyperschedule'], text.length)
    method = method_lib.measured_on(method, schedule, own_chain=False)
  part = Packed(rows.reshape(-1), text.length, 0)
  result = model.likelihood(part, num_samples=run.num_rows, seed=seed, method=method)
  tokens_per_byte = len(text.stream) / text.num_bytes
  metrics = {
    'perplexity': result.perplexity,
    'nats': result.nll_per_token,
    'bits_per_byte': result.nll_per_token / math.log(2) * tokens_per_byte,
    'stderr': result.stderr or 0.0,
    'tokens': result.tokens,
    'exact': result.kind == 'exact',
  }
  drawn = f', {run.num_rows} draws a sequence' if result.kind == 'bound' else ''
  law = f'{result.law}{drawn}, of {result.tokens:,} {model.tokenizer.name} tokens'
  return {'metrics': plain(metrics), 'law': law}


def released(models: Models, run: ConfigDict, settings: Mapping, seed: int) -> dict[str, Any]:
  """`data` of the settings as in `perplexity`; the model is one of score entropy."""
  model = models(run.model, seed)
  rows = models.text(run.model, seed, settings['data']).spread(run.num_texts)
  key = rng.stream(jax.random.key(seed), 'released')
  size = model.config.eval.batch_size
  totals = {'exact': [], 'released': []}
  with mesh_lib.use(model.mesh):
    for start in range(0, len(rows), size):
      numbers = np.minimum(np.arange(start, start + size), len(rows) - 1)
      tokens = mesh_lib.place_whole(model.mesh, rows[numbers])
      for form, found in totals.items():
        nats = _integral(model.method, model.params, form, tokens, numbers, key, run.num_rows)
        found.append(np.asarray(nats)[: len(rows) - start])
  nats = {form: np.concatenate(found) / rows.shape[1] for form, found in totals.items()}
  difference = nats['released'] - nats['exact']
  metrics = {
    'nats': nats['exact'].mean(),
    'perplexity': math.exp(nats['exact'].mean()),
    'released_nats': nats['released'].mean(),
    'released_perplexity': math.exp(nats['released'].mean()),
    'difference': difference.mean(),
    'stderr': difference.std(ddof=1) / math.sqrt(len(rows)),
    'exact': False,
  }
  return {'metrics': plain(metrics)}


@functools.partial(jax.jit, static_argnames=('method', 'form', 'num_samples'))
def _integral(method, params, form, tokens, numbers, key, num_samples) -> jax.Array:
  """Returns float32[B], nats of the continuous-time integral of one form of the rate."""
  objective = dataclasses.replace(method.objective, form=form, settled_weight=0.0)
  return bounds.score_integral(
    method.denoise,
    params,
    objective,
    method.hyperschedule,
    tokens,
    jnp.ones(tokens.shape, bool),
    numbers,
    key,
    num_samples,
  )
