"""Generates text with a trained model.

  python -m ardiff_jax.sample --workdir=DIR [--prompt=TEXT] [--num_samples=4] [--sampler=acs]
    [--steps=64] [--temperature=1.0] [--seed=0] [--cache=auto]
    [--out=FILE.jsonl]

Prints the texts, and appends a line per sample to DIR/samples.jsonl, or to --out.
"""

import pathlib
import sys

import numpy as np
from absl import flags

from ardiff_jax import cli, workdir
from ardiff_jax.errors import UserError

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the trained run.')
_NUM_SAMPLES = flags.DEFINE_integer('num_samples', 4, 'How many texts.', lower_bound=1)
_PROMPT = flags.DEFINE_string('prompt', '', 'Text that every sample starts with.')
_SAMPLER = flags.DEFINE_enum(
  'sampler', None, ['ancestral', 'acs'], "How a step moves; the config's by default."
)
_STEPS = flags.DEFINE_integer(
  'steps',
  None,
  'Noise levels a token passes (T); calls follow from the hyperschedule.',
  lower_bound=1,
)
_TEMPERATURE = flags.DEFINE_float(
  'temperature', None, 'Divides the logits; 0 takes the most likely token.', lower_bound=0.0
)
_CACHE = flags.DEFINE_enum(
  'cache',
  'auto',
  ['auto', 'on', 'off'],
  'Keys and values of settled tokens; the same texts but for rounding.',
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of all random draws.')
_OUT = flags.DEFINE_string('out', None, 'JSON-lines file instead of DIR/samples.jsonl.')

_SNAPSHOTS = 12  # canvases of a trace that are kept in the file


def main() -> None:
  directory = cli.read_workdir(_WORKDIR)
  out = pathlib.Path(_OUT.value) if _OUT.value else directory / 'samples.jsonl'
  if _OUT.value and not out.parent.is_dir():
    raise UserError(f'--out={out}: there is no folder {out.parent}')

  import ardiff_jax
  from ardiff_jax import report

  model = ardiff_jax.load(directory)
  samples = model.sample(
    num_samples=_NUM_SAMPLES.value,
    prompt=_PROMPT.value,
    sampler=_SAMPLER.value,
    steps=_STEPS.value,
    temperature=_TEMPERATURE.value,
    seed=_SEED.value,
    cache=_CACHE.value,
    trace=True,
  )
  records = []
  for sample in samples:
    kept = np.unique(np.linspace(0, len(sample.trace) - 1, _SNAPSHOTS).round().astype(int))
    records.append(
      {
        'text': sample.text,
        'prompt': _PROMPT.value,
        'token_ids': sample.token_ids,
        'network_calls': sample.network_calls,
        'redraws': sample.redraws,
        'seconds': sample.seconds,
        'sampler': sample.sampler,
        'hyperschedule': sample.hyperschedule,
        'temperature': sample.temperature,
        'seed': sample.seed,
        'step': model.step,
        'trace': {'steps': kept.tolist(), 'canvases': sample.trace[kept].tolist()},
      }
    )
  workdir.append(out, records)
  for number, sample in enumerate(samples):
    print(f'--- sample {number + 1} of {len(samples)}\n{sample.text}')
  first = samples[0]
  print(
    f'{first.sampler} on {first.hyperschedule}: {first.network_calls} network calls, '
    f'{first.seconds:.1f} s with compilation',
    file=sys.stderr,
  )
  if not _OUT.value:
    report.write(directory)


if __name__ == '__main__':
  cli.run(main)
