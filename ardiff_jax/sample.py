"""Generates text with a trained model.

  python -m ardiff_jax.sample --workdir=DIR [--num_samples=4]
    [--prompt=TEXT | --infill='A [[12]] B']
    [--sampler=acs] [--steps=64] [--hyperschedule=block,width=4,num_levels=8] [--process=own]
    [--temperature=1.0] [--top_k=0] [--top_p=1] [--min_p=0] [--repetition_penalty=1] [--guidance=0]
    [--banned=ID,ID] [--length=L] [--context_length=N] [--stop] [--seed=0] [--cache=auto]
    [--batch_size=N] [--out=FILE.jsonl] [--trace=FILE.html]

Prints the texts, and appends a line per sample to DIR/samples.jsonl, or to --out. --trace draws
how they came to be.
"""

import dataclasses
import pathlib
import sys
import time

from absl import flags

from ardiff_jax import cli, workdir
from ardiff_jax.errors import UserError

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the trained run.')
_CHECKPOINT = cli.define_checkpoint()
_NUM_SAMPLES = flags.DEFINE_integer('num_samples', 4, 'How many texts.', lower_bound=1)
_PROMPT = flags.DEFINE_string('prompt', '', 'Text that every sample starts with.')
_INFILL = flags.DEFINE_string('infill', None, "Text with gaps of so many tokens: 'A [[12]] B'.")
_SAMPLER = flags.DEFINE_string('sampler', None, "How a step moves; the config's by default.")
_STEPS = flags.DEFINE_integer(
  'steps',
  None,
  'Noise levels a token passes (T); calls follow from the hyperschedule.',
  lower_bound=1,
)
_ETA = flags.DEFINE_float('eta', None, 'How much is corrected or masked again, 0 to 1.')
_HYPERSCHEDULE = flags.DEFINE_string(
  'hyperschedule', None, "Other rows than the config's, e.g. block,width=4,num_levels=8."
)
_PROCESS = flags.DEFINE_enum(
  'process', 'absorbing', ['absorbing', 'own'], 'Noise an ε-hybrid generates by.'
)
_TEMPERATURE = flags.DEFINE_float(
  'temperature', None, 'Divides the logits; 0 takes the most likely token.', lower_bound=0.0
)
_TOP_K = flags.DEFINE_integer('top_k', 0, 'Most likely tokens kept; 0 for all.')
_TOP_P = flags.DEFINE_float('top_p', 1.0, 'Probability of the most likely tokens kept.')
_MIN_P = flags.DEFINE_float('min_p', 0.0, 'Least share of the greatest probability kept.')
_REPETITION = flags.DEFINE_float('repetition_penalty', 1.0, 'Of tokens already in the text.')
_GUIDANCE = flags.DEFINE_float('guidance', 0.0, 'Pull towards the prompt; two calls in one.')
_BANNED = flags.DEFINE_list('banned', [], 'Ids of tokens that are never drawn.')
_LENGTH = flags.DEFINE_integer('length', None, "Tokens of a text; the model's by default.")
_CONTEXT_LENGTH = flags.DEFINE_integer(
  'context_length', None, 'How many positions back settled text is seen; 0 for all.'
)
_STOP = flags.DEFINE_boolean('stop', False, 'End a text where its document ends.')
_CACHE = flags.DEFINE_enum(
  'cache',
  'auto',
  ['auto', 'on', 'off'],
  'Keys and values of settled tokens; the same texts but for rounding.',
)
_SEED = flags.DEFINE_integer('seed', 0, 'Of all random draws.')
_BATCH_SIZE = flags.DEFINE_integer('batch_size', None, 'Texts at a time; all by default.')
_OUT = flags.DEFINE_string('out', None, 'JSON-lines file instead of DIR/samples.jsonl.')
_TRACE = flags.DEFINE_string('trace', None, 'HTML file that plays the samples step by step.')

_FRAMES = 48  # canvases that are kept of a sample


def main() -> None:
  directory = cli.read_workdir(_WORKDIR)
  checkpoint = cli.read_checkpoint(_CHECKPOINT)
  out = pathlib.Path(_OUT.value) if _OUT.value else directory / 'samples.jsonl'
  for flag, path in (('out', _OUT.value), ('trace', _TRACE.value)):
    if path and not pathlib.Path(path).absolute().parent.is_dir():
      raise UserError(f'--{flag}={path}: there is no folder {pathlib.Path(path).parent}')
  if not all(token.strip().isdecimal() for token in _BANNED.value):
    raise UserError(f'--banned={",".join(_BANNED.value)} must be token ids with commas between')

  import ardiff_jax
  from ardiff_jax import report
  from ardiff_jax.progress import Progress
  from ardiff_jax.report import traces
  from ardiff_jax.sampling.controls import Controls

  model = ardiff_jax.load(directory, checkpoint)
  count = _NUM_SAMPLES.value
  progress = Progress('sample', count) if (_BATCH_SIZE.value or count) < count else None
  began = time.monotonic()

  def report_progress(done: int) -> None:
    length = _LENGTH.value or model.config.data.length
    progress.show(done, 'texts', done * length / (time.monotonic() - began))

  controls = dict(
    top_k=_TOP_K.value,
    top_p=_TOP_P.value,
    min_p=_MIN_P.value,
    repetition_penalty=_REPETITION.value,
    guidance=_GUIDANCE.value,
    banned=tuple(int(token) for token in _BANNED.value),
  )
  samples = model.sample(
    num_samples=count,
    prompt=_PROMPT.value,
    infill=_INFILL.value,
    sampler=_SAMPLER.value,
    steps=_STEPS.value,
    eta=_ETA.value,
    temperature=_TEMPERATURE.value,
    hyperschedule=_HYPERSCHEDULE.value,
    own_chain=_PROCESS.value == 'own',
    length=_LENGTH.value,
    context_length=_CONTEXT_LENGTH.value,
    stop=_STOP.value,
    seed=_SEED.value,
    cache=_CACHE.value,
    batch_size=_BATCH_SIZE.value,
    trace=_FRAMES,
    report=report_progress if progress else None,
    **controls,
  )
  if progress:
    progress.close()
  plain = dataclasses.asdict(Controls())
  bent = {name: value for name, value in controls.items() if value != plain[name]}
  records = []
  for sample in samples:
    trace = {'steps': sample.trace_steps, 'canvases': sample.trace.tolist()}
    made = dataclasses.asdict(dataclasses.replace(sample, trace=None))
    made |= {'prompt': _PROMPT.value, 'infill': _INFILL.value, 'controls': bent}
    made |= {'step': model.step, 'dtype': model.config.model.dtype}
    records.append(made | {'trace': trace})
  workdir.append(out, records)
  for number, sample in enumerate(samples):
    print(f'--- sample {number + 1} of {len(samples)}\n{sample.text}')
  first = samples[0]
  print(
    f'{first.sampler} on {first.hyperschedule}: {first.network_calls} network calls, '
    f'{first.seconds:.1f} s with compilation',
    file=sys.stderr,
  )
  if _TRACE.value:
    shown = [record['trace'] for record in records]
    page = traces.page(shown, model.tokenizer, title=str(directory))
    pathlib.Path(_TRACE.value).write_text(page, encoding='utf-8')
  if not _OUT.value:
    report.write(directory)


if __name__ == '__main__':
  cli.run(main)
