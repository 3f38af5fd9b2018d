"""Metrics on disk: `metrics.jsonl` for programs, TensorBoard events for eyes. The first process
writes them."""

import pathlib

import tensorboardX

from ardiff_jax import processes
from ardiff_jax import workdir as workdir_lib


class MetricWriter:
  """Appends one line per record to `metrics.jsonl` and scalars to TensorBoard event files."""

  def __init__(self, workdir: pathlib.Path, last_step: int):
    """Opens the files; lines after `last_step`, of a run that went on past the checkpoint this
    one resumes from, are dropped, so that every step stands once."""
    if not processes.is_first():
      return
    path = workdir / 'metrics.jsonl'
    if path.exists():
      kept = [record for record in workdir_lib.read_lines(path) if record['step'] <= last_step]
      workdir_lib.rewrite(path, kept)
    self._path = path
    self._events = tensorboardX.SummaryWriter(
      str(workdir / 'tensorboard'), purge_step=last_step + 1
    )

  def write(self, step: int, split: str, scalars: dict[str, float], **texts: str) -> None:
    """Writes one record; `texts` go to the file only."""
    if not processes.is_first():
      return
    workdir_lib.append(self._path, [{'step': step, 'split': split, **scalars, **texts}])
    for name, value in scalars.items():
      self._events.add_scalar(f'{split}/{name}', value, step)

  def close(self) -> None:
    if processes.is_first():
      self._events.close()
