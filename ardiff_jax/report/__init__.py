"""The report of a run: one self-contained page made of the files of its work directory."""

import base64
import json
import pathlib
from collections.abc import Sequence
from typing import Any

from ml_collections import ConfigDict

from ardiff_jax import edits, method, paths, plots
from ardiff_jax import workdir as files
from ardiff_jax.data.tokenizers import Tokenizer, load_tokenizer
from ardiff_jax.report import traces

_SHOWN = 4  # newest samples, and refined drafts


def write(workdir: pathlib.Path) -> pathlib.Path:
  """Writes report.html, whole or not at all, and returns its path.

  What a run has not produced yet is named, with the command that makes it.

  Args:
    workdir: has config.json, and may have metrics.jsonl, eval.jsonl, samples.jsonl and
      refined.jsonl.

  Raises:
    UserError: config.json or, where there are samples, the tokenizer is missing or damaged.
  """
  content = files.read(workdir)
  config = ConfigDict(content['config'])
  metrics = files.read_lines(workdir / 'metrics.jsonl')
  samples, refined = (
    files.read_lines(workdir / name)[: -_SHOWN - 1 : -1]
    for name in ('samples.jsonl', 'refined.jsonl')
  )
  tokenizer = load_tokenizer(workdir, config.tokenizer) if samples else None
  schedule = method.make_hyperschedule(config, config.sampling.steps)
  newest = {record['data']: record for record in files.read_lines(workdir / 'eval.jsonl')}

  environment = traces.environment()
  environment.filters['count'] = _count
  page = environment.get_template('template.html').render(
    workdir=workdir,
    title=workdir.resolve().name,
    config=config,
    is_latent=config.objective.name == 'latent_diffusion',
    content=content,
    config_text=json.dumps(content['config'], indent=2),
    training_schedule=method.make_hyperschedule(config).name,
    train=_last(metrics, 'train'),
    valid=_last([r for r in metrics if 'nll_per_token' in r], 'valid'),
    curves=_data_uri(plots.curves(metrics)) if metrics else None,
    schedule=schedule,
    schedule_picture=_data_uri(plots.hyperschedule(schedule)),
    evaluations=[record | {'bars': _bars(record)} for record in newest.values()],
    samples=[sample | {'player': _player(sample['trace'], tokenizer)} for sample in samples],
    refined=[one | {'edits': edits.between(one['draft'], one['text'])} for one in refined],
  )
  paths.write_whole(workdir / 'report.html', page)
  return workdir / 'report.html'


def _player(trace: dict[str, Any], tokenizer: Tokenizer) -> str | None:
  return traces.player(trace, tokenizer) if trace['canvases'] else None


def _bars(record: dict[str, Any]) -> list[dict[str, Any]]:
  """Returns the model and its baselines in bits per byte, best first, with lengths in percent."""
  bits = {'this model': record['bits_per_byte'], **record.get('baselines', {})}
  longest = max(bits.values())
  return [
    {'name': name, 'bits': value, 'percent': 100 * value / longest}
    for name, value in sorted(bits.items(), key=lambda item: item[1])
  ]


def _last(metrics: Sequence[dict[str, Any]], split: str) -> dict[str, Any] | None:
  return next((record for record in reversed(metrics) if record['split'] == split), None)


def _data_uri(figure) -> str:
  svg = plots.to_svg(figure).encode()
  return 'data:image/svg+xml;base64,' + base64.b64encode(svg).decode()


def _count(number: int) -> str:
  """Returns a large number at three digits: 2,211,840 as "2.21 M"."""
  for size, unit in ((1e9, 'B'), (1e6, 'M'), (1e4, 'k')):
    if number >= size:
      scale = 1e3 if unit == 'k' else size
      return f'{number / scale:.3g} {unit}'
  return f'{number:,}'
