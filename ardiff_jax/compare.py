"""Compares samplers of one model: what they write under a judge, and what they repair.

  python -m ardiff_jax.compare --workdir=DIR --judge=DIR2 [--samplers=ancestral,acs]
    [--steps=16,64,256] [--seeds=3] [--num_samples=32] [--corrupted=0.15]

The judge is an autoregressive run with the same tokenizer, so that tokens are judged as they were
drawn; DIR2 was trained with --config.tokenizer.path=DIR/tokenizer.model or alike. Repair
starts from rows of the validation text of DIR, of which a share of the tokens is replaced, nothing
masked, and descends all rows: what a sampler does early to a text it thinks noisy counts too.
Prints a table, and appends a line per sampler and steps to DIR/compare.jsonl.
"""

import pathlib
import time
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from ardiff_jax import cli, paths, workdir
from ardiff_jax.errors import UserError
from ardiff_jax.progress import Progress

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the trained run.')
_JUDGE = flags.DEFINE_string('judge', None, 'Directory of an autoregressive run to judge texts.')
_SAMPLERS = flags.DEFINE_list('samplers', ['ancestral', 'acs'], 'Names, see the README.')
_STEPS = flags.DEFINE_list('steps', ['16', '64', '256'], 'Noise levels a token passes.')
_SEEDS = flags.DEFINE_integer('seeds', 3, 'Repetitions, for standard errors.', lower_bound=2)
_NUM_SAMPLES = flags.DEFINE_integer('num_samples', 32, 'Texts a repetition.', lower_bound=2)
_CORRUPTED = flags.DEFINE_float('corrupted', 0.15, 'Share of tokens replaced for the repair.')

_COLUMNS = {  # of the table: title, figures after the point
  'judge_nats': ('judge nats/token', 3),
  'entropy': ('entropy', 3),
  'distinct_1': ('distinct-1', 3),
  'distinct_2': ('distinct-2', 3),
  'distinct_3': ('distinct-3', 3),
  'self_bleu': ('self-BLEU', 3),
  'repetition': ('rep-4', 3),
  'redraws': ('redraws', 1),
  'network_calls': ('calls', 0),
  'tokens_per_second': ('tokens/s', 0),
  'fixed': ('fixed', 3),
  'harmed': ('harmed', 3),
}


def main() -> None:
  if not _JUDGE.value:
    raise UserError('--judge is missing: the directory of an autoregressive run')
  if not all(step.isdecimal() and int(step) for step in _STEPS.value):
    raise UserError(f'--steps must be numbers from 1 up, got {",".join(_STEPS.value)}')
  if not 0.0 < _CORRUPTED.value < 1.0:
    raise UserError(f'--corrupted must be inside (0, 1), got {_CORRUPTED.value}')
  directory = cli.read_workdir(_WORKDIR)
  records = compare(
    directory,
    paths.path_of(_JUDGE.value),
    _SAMPLERS.value,
    [int(step) for step in _STEPS.value],
    seeds=_SEEDS.value,
    num_samples=_NUM_SAMPLES.value,
    corrupted=_CORRUPTED.value,
  )
  print(format_table(records))


def compare(
  directory: pathlib.Path,
  judge_directory: pathlib.Path,
  samplers: Sequence[str],
  steps: Sequence[int],
  *,
  seeds: int,
  num_samples: int,
  corrupted: float,
) -> list[dict[str, Any]]:
  """Measures every sampler at every number of steps and appends the records to compare.jsonl.

  Args:
    directory: work directory of the model.
    judge_directory: that of the judge.
    samplers: names.
    steps: T of each.
    seeds: repetitions.
    num_samples: texts of each.
    corrupted: share of tokens that are replaced before a repair.

  Returns:
    One record per sampler and steps: means over the seeds, and standard errors of them.

  Raises:
    UserError: the judge is none, or a sampler is not for this model.
  """
  import ardiff_jax
  from ardiff_jax import samplers as samplers_lib
  from ardiff_jax.data.packing import pack
  from ardiff_jax.evaluation.text import training_corpus
  from ardiff_jax.judging import reading

  model, judge = ardiff_jax.load(directory), ardiff_jax.load(judge_directory)
  reading.check(judge, model.tokenizer, model.config.data.length)
  for sampler in samplers:
    samplers_lib.make(model.method, model.config, sampler)
  if not 0 < round(corrupted * model.config.data.length) < model.config.data.length:
    raise UserError(f'corrupted={corrupted} of {model.config.data.length} tokens is none or all')
  corpus = training_corpus(directory, model.config)
  if corpus is None:
    raise UserError(f'{directory} was imported and has no text of its own to corrupt and repair')
  valid = pack(corpus.valid, model.tokenizer, model.config.data.length)
  rows = np.linspace(0, len(valid) - 1, num_samples * seeds).astype(int).reshape(seeds, -1)
  originals = [np.stack([valid[int(row)]['tokens'] for row in part]) for part in rows]

  work = {
    sampler: steps if samplers_lib.named(sampler).takes_steps else [None] for sampler in samplers
  }
  progress = Progress('compare', sum(map(len, work.values())) * seeds)
  began, done, records = time.monotonic(), 0, []
  for sampler, kinds in work.items():
    for num_steps in kinds:
      settings = {'sampler': sampler, 'steps': num_steps}
      model.sample(num_samples=num_samples, seed=seeds, **settings)  # compiles
      results = []
      for seed in range(seeds):
        results.append(_measure(model, judge, settings, originals[seed], seed, corrupted))
        done += 1
        speed = done * originals[0].size / (time.monotonic() - began)
        progress.show(done, f'{sampler}, {num_steps or "its own"} steps', speed)
      names = results[0].keys()
      values = {name: [result[name] for result in results] for name in names}
      record = {
        'sampler': sampler,
        'steps': num_steps,
        'seeds': seeds,
        'num_samples': num_samples,
        'corrupted': corrupted,
        'dtype': model.config.model.dtype,
        **{name: float(np.mean(value)) for name, value in values.items()},
        'stderr': {name: float(np.std(x, ddof=1) / seeds**0.5) for name, x in values.items()},
        'judge': str(judge_directory),
        'judge_step': judge.step,
        'step': model.step,
      }
      workdir.append(directory / 'compare.jsonl', [record])
      records.append(record)
  progress.close()
  return records


def format_table(records: Sequence[dict[str, Any]]) -> str:
  """Returns the records as a Markdown table, with standard errors over the seeds."""
  lines = [
    '| sampler | steps | ' + ' | '.join(title for title, _ in _COLUMNS.values()) + ' |',
    '|---' + '|---:' * (1 + len(_COLUMNS)) + '|',
  ]
  for record in records:
    cells = [
      f'{record[name]:.{digits}f} ± {record["stderr"][name]:.{digits}f}'
      for name, (_, digits) in _COLUMNS.items()
    ]
    lines.append(f'| {record["sampler"]} | {record["steps"] or ""} | ' + ' | '.join(cells) + ' |')
  lines += ['', f'Network in {records[0]["dtype"]}; draws in float32.']
  return '\n'.join(lines)


def _measure(model, judge, settings, originals, seed, corrupted) -> dict[str, float]:
  """Figures of one repetition."""
  from ardiff_jax.evaluation import samples as measures
  from ardiff_jax.judging import reading

  count = len(originals)
  samples = model.sample(num_samples=count, seed=seed, **settings)
  tokens = np.array([sample.token_ids for sample in samples])
  wrong = measures.corrupt(originals, corrupted, model.tokenizer.vocab_size, seed)
  free = np.zeros(originals.shape, bool)
  repaired = model.sample(
    num_samples=count, tokens=originals, given=free, draft=wrong, seed=seed, **settings
  )
  after = np.array([sample.token_ids for sample in repaired])
  repair = measures.repair(originals, wrong, after)
  return {
    'judge_nats': float(reading.nats(judge, tokens).mean()),
    'entropy': float(np.mean([sample.entropy for sample in samples])),
    **{f'distinct_{n}': measures.distinct(tokens, n) for n in (1, 2, 3)},
    'self_bleu': measures.self_bleu(tokens),
    'repetition': measures.repetition(tokens),
    'redraws': float(np.mean([sample.redraws for sample in samples])),
    'network_calls': samples[0].network_calls,
    'tokens_per_second': tokens.size / samples[0].seconds,
    'fixed': float(repair.fixed.mean()),
    'harmed': float(repair.harmed.mean()),
    'precision': float(repair.precision.mean()),
  }


if __name__ == '__main__':
  cli.run(main)
