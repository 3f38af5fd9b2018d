"""Measures how well a trained model predicts held-out text.

  python -m ardiff_jax.evaluate --workdir=DIR [--data=valid,FILE,...] [--rows=all]
    [--hyperschedule=block,width=1,num_levels=1] [--process=own]
  python -m ardiff_jax.evaluate --workdir=DIR --choices=FILE.jsonl,... [--max_items=N]

Prints a table, and appends a line per data set to DIR/eval.jsonl. The figure is exact for AR and
an upper bound for everything else; beside it stand n-gram models of the same training text, scored
on the same bytes. With --choices, how often the right one of several continuations is the
likeliest, appended to DIR/choices.jsonl; forms of files in `evaluation/choices.py`.
"""

import pathlib
from collections.abc import Sequence
from typing import Any

from absl import flags

from ardiff_jax import cli, workdir
from ardiff_jax.data.corpus import Corpus, read_text
from ardiff_jax.data.packing import Packed, pack
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import choices, ngrams
from ardiff_jax.evaluation.text import training_corpus
from ardiff_jax.progress import Progress

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the trained run.')
_CHECKPOINT = cli.define_checkpoint()
_DATA = flags.DEFINE_list(
  'data', ['valid'], "What to score: 'valid' (held out of the corpus) or UTF-8 text files."
)
_ROWS = flags.DEFINE_string(
  'rows', '', "Rows of the hyperschedule drawn per sequence, or 'all'; the config's by default."
)
_HYPERSCHEDULE = flags.DEFINE_string(
  'hyperschedule', '', "Another to generate by, e.g. 'block,width=4,num_levels=8'."
)
_PROCESS = flags.DEFINE_enum(
  'process', 'absorbing', ['absorbing', 'own'], 'Noise an ε-hybrid generates by.'
)
_CHOICES = flags.DEFINE_list('choices', [], 'Files of multiple choices instead of --data.')
_MAX_ITEMS = flags.DEFINE_integer(
  'max_items', None, 'Choices: items of each file, evenly spread; all by default.', lower_bound=1
)


def main() -> None:
  directory = cli.read_workdir(_WORKDIR)
  rows = _ROWS.value
  if rows not in ('', 'all') and not (rows.isdecimal() and int(rows)):
    raise UserError(f"--rows must be 'all' or a number from 1 up, got {rows!r}")
  settings = dict(
    checkpoint=cli.read_checkpoint(_CHECKPOINT),
    rows=rows if rows in ('', 'all') else int(rows),
    hyperschedule=_HYPERSCHEDULE.value,
    own_chain=_PROCESS.value == 'own',
  )
  if _CHOICES.value:
    records = choose(directory, _CHOICES.value, max_items=_MAX_ITEMS.value, **settings)
    print(format_choices(records))
    return
  print(format_table(evaluate(directory, _DATA.value, **settings)))

  from ardiff_jax import report

  report.write(directory)


def evaluate(
  directory: pathlib.Path,
  data: Sequence[str],
  *,
  checkpoint: str | int = 'newest',
  rows: int | str = '',
  hyperschedule: str = '',
  own_chain: bool = False,
) -> list[dict[str, Any]]:
  """Scores the data sets and appends the records to eval.jsonl.

  Args:
    directory: work directory of a trained run.
    data: 'valid', or paths of UTF-8 text files.
    checkpoint: see `load`.
    rows: drawn per sequence, 'all', or '' for the config's number.
    hyperschedule: see `method.parse_hyperschedule`; '' for the config's.
    own_chain: whether an ε-hybrid generates by its own noise.

  Returns:
    One record per data set, as written.

  Raises:
    UserError: no model there, text that cannot be read, or a corpus that changed since training.
  """
  data = list(dict.fromkeys(data))
  if not any(data):
    raise UserError("--data is empty: give 'valid' or text files")
  texts = {name: (read_text(name),) for name in data if name != 'valid'}  # complain early

  model, method, num_samples = _load(directory, checkpoint, rows, hyperschedule, own_chain)
  corpus = training_corpus(directory, model.config)
  if 'valid' in data:
    if corpus is None:
      raise UserError(f'{directory} was imported and has no text of its own: give --data=FILE')
    texts['valid'] = corpus.valid
  train = None
  if corpus is not None:
    train = pack(corpus.train, model.tokenizer, model.config.data.length, 'train text')
  records = []
  for name in data:
    packed = pack(texts[name], model.tokenizer, model.config.data.length, name)
    record = _score(model, method, num_samples, name, packed)
    record['baselines'] = {}
    if corpus is not None:
      vocab_size = model.tokenizer.vocab_size
      record['baselines'] = _baselines(corpus, train, texts[name], packed, vocab_size)
    workdir.append(directory / 'eval.jsonl', [record])
    records.append(record)
  return records


def choose(
  directory: pathlib.Path,
  paths: Sequence[str],
  *,
  max_items: int | None = None,
  checkpoint: str | int = 'newest',
  rows: int | str = '',
  hyperschedule: str = '',
  own_chain: bool = False,
) -> list[dict[str, Any]]:
  """Scores multiple choices and appends the records to choices.jsonl.

  Args:
    directory: work directory of a trained run.
    paths: files, see `evaluation.choices`.
    max_items: of each, evenly spread; None for all.
    checkpoint, rows, hyperschedule, own_chain: see `evaluate`.

  Returns:
    One record per file, as written.

  Raises:
    UserError: no model there, or a file that cannot be read.
  """
  files = {path: choices.read(path) for path in paths}  # complain early
  model, method, num_samples = _load(directory, checkpoint, rows, hyperschedule, own_chain)
  length, batch_size = model.config.data.length, model.config.eval.batch_size
  records = []
  for path, items in files.items():
    if max_items is not None:
      items = [items[i * len(items) // max_items] for i in range(min(max_items, len(items)))]
    encoded = choices.encode(items, model.tokenizer, length)
    progress = Progress(f'evaluate {pathlib.Path(path).stem}', int(encoded.counted.sum()))
    result = model.sequence_nats(
      encoded.tokens,
      encoded.counted,
      num_samples=num_samples,
      seed=model.config.seed,
      method=method,
      batch_size=batch_size,
      report=progress.show,
    )
    progress.close()
    score = choices.score(encoded.items, result)
    record = {
      'data': path,
      **score._asdict(),
      'items': len(encoded.items),
      'too_long': len(items) - len(encoded.items),
      'hyperschedule': method.hyperschedule.name,
      'samples': num_samples or 'all',
      'step': model.step,
    }
    workdir.append(directory / 'choices.jsonl', [record])
    records.append(record)
  return records


def format_choices(records: Sequence[dict[str, Any]]) -> str:
  """Returns the records of `choose` as a Markdown table."""
  lines = [
    '| file | items | too long | accuracy | per byte | chance |',
    '|---|---:|---:|---:|---:|---:|',
  ]
  for r in records:
    lines.append(
      f'| {pathlib.Path(r["data"]).stem} | {r["items"]} | {r["too_long"]} '
      f'| {r["accuracy"]:.3f} ± {r["stderr"]:.3f} '
      f'| {r["accuracy_per_byte"]:.3f} ± {r["stderr_per_byte"]:.3f} | {r["chance"]:.3f} |'
    )
  return '\n'.join(lines)


def format_table(records: Sequence[dict[str, Any]]) -> str:
  """Returns the records as text: the model's figure, then the baselines, in bits per byte."""
  lines = []
  for r in records:
    bound = r['kind'] == 'bound'
    error = 'a single sequence' if r['stderr'] is None else f'standard error {r["stderr"]:.4f}'
    lines += [
      f'{r["data"]}: {r["tokens"]:,} tokens ({r["tokenizer"]}), {r["bytes"]:,} bytes',
      f'  {r["kind"]}: {r["law"]}',
      f'  perplexity {"≤ " if bound else ""}{r["perplexity"]:.2f} a token '
      f'= {r["nll_per_token"]:.4f} nats ({error}; process {r["process"]}, '
      + (f'{r["samples"]} rows a sequence)' if bound else 'no sampling)'),
      '',
      '  bits per byte',
      f'    {"this model":<16}{r["bits_per_byte"]:8.3f}',
      *(f'    {name:<16}{bits:8.3f}' for name, bits in r['baselines'].items()),
      '',
    ]
  return '\n'.join(lines)


def _load(directory, checkpoint, rows, hyperschedule, own_chain):
  """Returns the model, its method on the rows that are asked for, and how many are drawn."""
  import ardiff_jax
  from ardiff_jax import method as method_lib

  model = ardiff_jax.load(directory, checkpoint)
  method = model.method
  if hyperschedule or own_chain:
    schedule = method.hyperschedule
    if hyperschedule:
      schedule = method_lib.parse_hyperschedule(hyperschedule, model.config.data.length)
    method = method_lib.measured_on(method, schedule, own_chain)
  return model, method, None if rows == 'all' else rows or model.config.eval.num_samples


def _score(model, method, num_samples, name: str, packed: Packed) -> dict[str, Any]:
  progress = Progress(f'evaluate {name}', len(packed.stream))
  result = model.likelihood(
    packed,
    num_samples=num_samples,
    seed=model.config.seed,
    method=method,
    report=progress.show,
  )
  progress.close()
  return {
    'data': name,
    'tokens': result.tokens,
    'bytes': packed.num_bytes,
    'nll_per_token': result.nll_per_token,
    'perplexity': result.perplexity,
    'bits_per_byte': result.bits_per_byte(packed.num_bytes),
    'stderr': result.stderr,
    'kind': result.kind,
    'law': result.law,
    'process': result.process,
    'hyperschedule': result.hyperschedule,
    'samples': None if result.kind == 'exact' else num_samples or 'all',
    'tokenizer': model.tokenizer.name,
    'step': model.step,
  }


def _baselines(
  corpus: Corpus, train: Packed, text: Sequence[str], packed: Packed, vocab_size: int
) -> dict[str, float]:
  bits = ngrams.byte_ngram_bits(corpus.train, text)
  bits['token unigram'] = ngrams.token_unigram_bits(
    train.stream, packed.stream, vocab_size, packed.num_bytes
  )
  return bits


if __name__ == '__main__':
  cli.run(main)
