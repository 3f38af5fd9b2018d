"""What an overwrite gate is measured by while it trains: the frozen denoiser's likelihood stays."""

from collections.abc import Iterable

import jax
import numpy as np
from jax.sharding import Mesh

from ardiff_jax import mesh as mesh_lib
from ardiff_jax import processes, rng
from ardiff_jax.evaluation import samples
from ardiff_jax.method import Method
from ardiff_jax.sampling.loop import generate
from ardiff_jax.sampling.revision import Revision

_CORRUPTED = 0.15  # share of tokens replaced

_look = jax.jit(generate, static_argnames=('denoise', 'process'))


def measure(
  method: Method,
  params: dict,
  batches: Iterable[dict[str, np.ndarray]],
  *,
  seed: int,
  mesh: Mesh,
) -> dict[str, float]:
  """Returns `gate_auc`: how well the doubt of a first look tells tokens that were replaced, 15 %,
  from the others, as the chance that one of the former is doubted more.

  Args:
    method: with a gate, on rows that show each position once.
    params: parameters, placed on the mesh.
    batches: {'tokens': int32[B, L], 'loss_mask': bool[B, L]}; only counted tokens count.
    seed: of the replacements.
    mesh: devices.
  """
  objective = method.objective
  prior = {name: getattr(objective, name) for name in ('alpha', 'delta', 'prior_scale', 'level')}
  revision = Revision(gate=method.gate, weights=params['gate'], early_stop=False, **prior)
  process = method.generation_process
  root = rng.stream(jax.random.key(seed), 'gate')
  doubts, wrongs = [], []
  for index, batch in enumerate(batches):
    clean, counted = batch['tokens'], batch['loss_mask']
    wrong = samples.corrupt(clean, _CORRUPTED, process.vocab_size, seed + index)
    canvas = np.where(counted, wrong, clean)
    keys = jax.random.split(jax.random.fold_in(root, index), len(clean))
    with mesh_lib.use(mesh):
      schedule = mesh_lib.repeat(mesh, method.hyperschedule)
      canvas_, given, keys = mesh_lib.place_whole(mesh, (canvas, ~counted, keys))
      args = method.denoise, params, process, revision, schedule, canvas_, given, keys
      doubt = _look(*args, draft=canvas_).memory.first_doubt
    doubts.append(processes.fetch(doubt)[counted])
    wrongs.append((canvas != clean)[counted])
  return {'gate_auc': samples.area_under_curve(np.concatenate(doubts), np.concatenate(wrongs))}
