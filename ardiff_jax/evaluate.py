"""Measures a trained model: likelihood of text, multiple choice, infilling, and what it generated.

  python -m ardiff_jax.evaluate --workdir=DIR [--data=valid,wikitext,FILE,...] [--rows=all]
    [--hyperschedule=block,width=1,num_levels=1] [--process=own]
  python -m ardiff_jax.evaluate --workdir=DIR --choices=FILE.jsonl,... [--max_items=N]
  python -m ardiff_jax.evaluate --workdir=DIR --infill=FILE.jsonl,... [--sampler=acs] [--steps=16]
  python -m ardiff_jax.evaluate --workdir=DIR --samples=FILE.jsonl,... --judge=DIR2 [--data=valid]

Prints a table, and appends a line per file to DIR/eval.jsonl, choices.jsonl, infilling.jsonl or
judged.jsonl. A likelihood is exact for AR and an upper bound for everything else; beside it stand
n-gram models of the same training text, scored on the same bytes. Named sets and their formats are
in `evaluation/sets.py`, those of items in `evaluation/choices.py` and `evaluation/infilling.py`.
"""

import dataclasses
import math
import pathlib
from collections.abc import Sequence
from typing import Any

import numpy as np
from absl import flags

from ardiff_jax import cli, paths, workdir
from ardiff_jax.data.corpus import Corpus
from ardiff_jax.data.packing import Packed, pack
from ardiff_jax.data.tokenizers import Tokenizer
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import choices, infilling, items, ngrams, sets, tables
from ardiff_jax.evaluation.text import training_corpus
from ardiff_jax.progress import Progress

_WORKDIR = flags.DEFINE_string('workdir', None, 'Directory of the trained run.')
_CHECKPOINT = cli.define_checkpoint()
_DATA = flags.DEFINE_list(
  'data',
  ['valid'],
  "What to score, or compare samples with: 'valid' (held out of the corpus), named sets or files.",
)
_DATA_DIR = flags.DEFINE_string(
  'data_dir', None, 'Folder of the named sets; $ARDIFF_DATA by default, or else data.'
)
_ROWS = flags.DEFINE_string(
  'rows', '', "Draws of rows of the hyperschedule per sequence, or 'all'; the config's by default."
)
_HYPERSCHEDULE = flags.DEFINE_string(
  'hyperschedule', '', "Another to generate by, e.g. 'block,width=4,num_levels=8'."
)
_PROCESS = flags.DEFINE_enum(
  'process', 'absorbing', ['absorbing', 'own'], 'Noise an ε-hybrid generates by.'
)
_BATCH_SIZE = flags.DEFINE_integer(
  'batch_size', None, "Sequences at a time; the config's by default.", lower_bound=1
)
_CHOICES = flags.DEFINE_list('choices', [], 'Files of multiple choices instead of --data.')
_INFILL = flags.DEFINE_list('infill', [], 'Files of texts whose middle is to be written.')
_MAX_ITEMS = flags.DEFINE_integer(
  'max_items', None, 'Of each file, evenly spread; all by default.', lower_bound=1
)
_TOO_LONG = flags.DEFINE_enum(
  'too_long',
  'refuse',
  items.TOO_LONG,
  'What to do with items longer than the model; cut drops what is farthest from what is asked for.',
)
_SAMPLER = flags.DEFINE_string('sampler', None, "Infilling: see `sample`; the config's by default.")
_STEPS = flags.DEFINE_integer('steps', None, 'Infilling: T of the sampler.', lower_bound=1)
_TEMPERATURE = flags.DEFINE_float('temperature', 0.0, 'Infilling: 0 takes the likeliest tokens.')
_SAMPLES = flags.DEFINE_list('samples', [], 'Files that `sample` wrote, to be judged.')
_JUDGE = flags.DEFINE_string('judge', None, 'Directory of an autoregressive run to judge samples.')
_RETOKENISE = flags.DEFINE_bool(
  'retokenise', False, "Encode samples anew, for a judge with another tokenizer than the model's."
)


_OWN_FLAGS = {  # of each kind of evaluation; --checkpoint, --batch_size, --data_dir are of all
  'choices': ('choices', 'rows', 'hyperschedule', 'process', 'max_items', 'too_long'),
  'infill': (
    *('infill', 'hyperschedule', 'max_items', 'too_long', 'sampler', 'steps', 'temperature'),
  ),
  'samples': ('samples', 'judge', 'retokenise', 'data'),
  'data': ('data', 'rows', 'hyperschedule', 'process'),
}
_DRAWN_BY = 'sampler', 'hyperschedule', 'temperature', 'controls', 'step', 'dtype'
_ROWS_OF_CHOICES = 64  # drawn for an item: with few, noise decides


def main() -> None:
  directory = cli.read_workdir(_WORKDIR)
  rows = _ROWS.value
  if rows not in ('', 'all') and not (rows.isdecimal() and int(rows)):
    raise UserError(f"--rows must be 'all' or a number from 1 up, got {rows!r}")
  if sum(map(bool, (_CHOICES.value, _INFILL.value, _SAMPLES.value))) > 1:
    raise UserError('give one of --choices, --infill and --samples at a time')
  if bool(_SAMPLES.value) != bool(_JUDGE.value):
    raise UserError('--samples=FILE.jsonl and --judge=DIR, an autoregressive run, go together')
  _refuse_idle_flags()
  settings = Settings(
    checkpoint=cli.read_checkpoint(_CHECKPOINT),
    rows=rows if rows in ('', 'all') else int(rows),
    hyperschedule=_HYPERSCHEDULE.value,
    own_chain=_PROCESS.value == 'own',
    batch_size=_BATCH_SIZE.value,
  )
  folder = pathlib.Path(_DATA_DIR.value).expanduser() if _DATA_DIR.value else sets.FOLDER
  which = dict(max_items=_MAX_ITEMS.value, too_long=_TOO_LONG.value)
  if _CHOICES.value:
    print(tables.of_choices(choose(directory, _CHOICES.value, **which, settings=settings)))
  elif _INFILL.value:
    records = fill(
      directory,
      _INFILL.value,
      **which,
      checkpoint=settings.checkpoint,
      batch_size=settings.batch_size,
      sampler=_SAMPLER.value,
      steps=_STEPS.value,
      temperature=_TEMPERATURE.value,
      hyperschedule=_HYPERSCHEDULE.value or None,
    )
    print(tables.of_infilling(records))
  elif _SAMPLES.value:
    judge_directory = paths.path_of(_JUDGE.value)
    if len(_DATA.value) != 1:
      raise UserError('samples are compared with one real text: give one --data')
    records = judge(
      directory,
      _SAMPLES.value,
      judge_directory,
      _DATA.value[0],
      folder,
      retokenise=_RETOKENISE.value,
      batch_size=settings.batch_size,
    )
    print(tables.of_judged(records))
  else:
    from ardiff_jax import report

    print(tables.of_likelihoods(evaluate(directory, _DATA.value, folder, settings)))

    report.write(directory)


def _refuse_idle_flags() -> None:
  """Refuses flags that another kind of evaluation has."""
  used = next((kind for kind in _OWN_FLAGS if flags.FLAGS[kind].present), 'data')
  for kind, names in _OWN_FLAGS.items():
    for name in names:
      if flags.FLAGS[name].present and name not in _OWN_FLAGS[used]:
        raise UserError(f'--{name} goes with --{kind}, not with --{used}')


@dataclasses.dataclass(frozen=True)
class Settings:
  """How likelihoods are measured.

  Attributes:
    checkpoint: see `ardiff_jax.load`.
    rows: of the hyperschedule drawn per sequence, 'all', or '' for the config's number.
    hyperschedule: see `method.parse_hyperschedule`; '' for the config's.
    own_chain: whether an ε-hybrid generates by its own noise.
    batch_size: rows at a time; None for the config's. Figures do not depend on it.
  """

  checkpoint: str | int = 'newest'
  rows: int | str = ''
  hyperschedule: str = ''
  own_chain: bool = False
  batch_size: int | None = None


def evaluate(
  directory: pathlib.Path,
  data: Sequence[str],
  folder: pathlib.Path = sets.FOLDER,
  settings: Settings = Settings(),
) -> list[dict[str, Any]]:
  """Scores texts and appends the records to eval.jsonl.

  Args:
    directory: work directory of a trained run.
    data: 'valid', or what `sets.read` takes.
    folder: where the files of named sets lie.
    settings: how.

  Returns:
    One record per text, as written.

  Raises:
    UserError: no model there, text that cannot be read, or a corpus that changed since training.
  """
  data = list(dict.fromkeys(data))
  if not any(data):
    raise UserError("--data is empty: give 'valid', named sets or text files")
  texts = {name: sets.read(name, folder) for name in data if name != 'valid'}  # complain early
  model, method, num_samples = _load(directory, settings)
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
    record = _score(model, method, num_samples, name, packed, settings.batch_size)
    record['note'] = sets.note(name)
    record['baselines'] = {}
    if corpus is not None:
      vocab_size = model.tokenizer.vocab_size
      record['baselines'] = _baselines(corpus, train, texts[name], packed, vocab_size)
    _keep(directory / 'eval.jsonl', record)
    records.append(record)
  return records


def choose(
  directory: pathlib.Path,
  paths: Sequence[str],
  *,
  max_items: int | None = None,
  too_long: str = 'refuse',
  settings: Settings = Settings(),
) -> list[dict[str, Any]]:
  """Scores multiple choices and appends the records to choices.jsonl.

  Args:
    directory: work directory of a trained run.
    paths: files, see `evaluation.choices`.
    max_items: of each, evenly spread; None for all.
    too_long: one of `items.TOO_LONG`.
    settings: how.

  Returns:
    One record per file, as written.

  Raises:
    UserError: no model there, a file that cannot be read, or an item that is too long.
  """
  read = {path: choices.read(path) for path in paths}  # complain early
  model, method, num_samples = _load(directory, settings)
  if not settings.rows:
    num_samples = _ROWS_OF_CHOICES
  exact = method.is_autoregressive or method.is_any_order
  records = []
  for path, found in read.items():
    found = _spread(found, max_items)
    rows = _named(path, choices.encode, found, model, too_long)
    progress = Progress(f'evaluate {pathlib.Path(path).stem}', int(rows.counted.sum()))
    nats = model.sequence_nats(
      rows.tokens,
      rows.counted,
      num_samples=num_samples,
      seed=model.config.seed,
      method=method,
      batch_size=settings.batch_size,
      numbers=rows.numbers,
      report=progress.show,
    )
    progress.close()
    record = {
      'data': path,
      **choices.score(rows.items, nats)._asdict(),
      'items': len(rows.items),
      'too_long': len(found) - len(rows.items),
      'cut': rows.cut,
      'kind': 'exact' if exact else 'bound',
      'hyperschedule': method.hyperschedule.name,
      'samples': None if exact else num_samples or 'all',
      'step': model.step,
    }
    _keep(directory / 'choices.jsonl', record)
    records.append(record)
  return records


def fill(
  directory: pathlib.Path,
  paths: Sequence[str],
  *,
  max_items: int | None = None,
  too_long: str = 'refuse',
  checkpoint: str | int = 'newest',
  batch_size: int | None = None,
  **sampling: Any,
) -> list[dict[str, Any]]:
  """Fills the middles of texts and appends the records to infilling.jsonl.

  Args:
    directory: work directory of a trained run.
    paths: files, see `evaluation.infilling`.
    max_items: of each, evenly spread; None for all.
    too_long: one of `items.TOO_LONG`.
    checkpoint: see `ardiff_jax.load`.
    batch_size: texts at a time; None for config.eval.batch_size.
    **sampling: of `Model.sample`: sampler, steps, temperature, hyperschedule.

  Returns:
    One record per file, as written: shares and their standard errors over the items.

  Raises:
    UserError: no model there, a file that cannot be read, or an item that is too long.
  """
  read = {path: infilling.read(path) for path in paths}  # complain early
  import ardiff_jax

  model = ardiff_jax.load(directory, checkpoint)
  records = []
  for path, found in read.items():
    found = _spread(found, max_items)
    rows = _named(path, infilling.encode, found, model, too_long)
    progress = Progress(f'evaluate {pathlib.Path(path).stem}', len(rows.items))
    samples = model.sample(
      len(rows.items),
      tokens=rows.tokens,
      given=~rows.hole,
      seed=model.config.seed,
      batch_size=batch_size or model.config.eval.batch_size,
      report=lambda done, shown=progress: shown.show(done, 'texts', None),
      **sampling,
    )
    progress.close()
    texts = [
      model.tokenizer.decode(np.asarray(sample.token_ids)[hole])
      for sample, hole in zip(samples, rows.hole, strict=True)
    ]
    figures = infilling.score([item.middle for item in rows.items], texts)
    record = {
      'data': path,
      **{name: float(values.mean()) for name, values in figures.items()},
      'stderr': {name: _stderr(values) for name, values in figures.items()},
      'items': len(rows.items),
      'too_long': len(found) - len(rows.items),
      'cut': rows.cut,
      'sampler': samples[0].sampler,
      'hyperschedule': samples[0].hyperschedule,
      'temperature': samples[0].temperature,
      'step': model.step,
    }
    _keep(directory / 'infilling.jsonl', record)
    records.append(record)
  return records


def judge(
  directory: pathlib.Path,
  paths: Sequence[str],
  judge_directory: pathlib.Path,
  real: str = 'valid',
  folder: pathlib.Path = sets.FOLDER,
  *,
  retokenise: bool = False,
  batch_size: int | None = None,
) -> list[dict[str, Any]]:
  """Has generated texts judged and appends the records to judged.jsonl.

  Args:
    directory: work directory of the run that wrote them.
    paths: files that `sample` wrote.
    judge_directory: of an autoregressive run, or of an imported one.
    real: text to compare with, 'valid' or what `sets.read` takes.
    folder: where the files of named sets lie.
    retokenise: whether texts, generated and real, are encoded anew by the judge's tokenizer and
      cut to the length of the shortest; else its tokenizer must be theirs.
    batch_size: texts that the judge reads at a time; None for its config.eval.batch_size.

  Returns:
    One record per file, as written: `generated.measure`, and how the texts were drawn.

  Raises:
    UserError: a file is no such file, its texts were not drawn alike, are of another tokenizer or
      not of one length, or the judge cannot judge.
  """
  import ardiff_jax
  from ardiff_jax.judging import generated, reading

  files = {path: _samples(path) for path in paths}  # complain early
  documents = None if real == 'valid' else sets.read(real, folder)
  model, judging_model = ardiff_jax.load(directory), ardiff_jax.load(judge_directory)
  if documents is None:
    corpus = training_corpus(directory, model.config)
    if corpus is None:
      raise UserError(f'{directory} was imported and has no text to compare with: give --data=FILE')
    documents = corpus.valid
  records = []
  for path, lines in files.items():
    if not all(_is_of(model.tokenizer, x['text'], x['token_ids']) for x in lines):
      raise UserError(f'{path} has texts that are not of the tokenizer of {directory}')
    tokenizer = judging_model.tokenizer if retokenise else model.tokenizer
    ids = [tokenizer.encode(x['text']) if retokenise else x['token_ids'] for x in lines]
    lengths = sorted({len(x) for x in ids})
    if len(lengths) > 1 and not retokenise:
      raise UserError(
        f'{path} has texts of {lengths[0]} to {lengths[-1]} tokens, and figures of several lengths '
        'do not compare: sample without --stop'
      )
    if len(ids) < 2 or lengths[0] < 4:
      raise UserError(
        f'{path} holds {len(ids)} texts, the shortest of {lengths[0]} tokens: at least two of '
        'four tokens each are needed'
      )
    if 2 * lengths[0] < lengths[len(lengths) // 2]:
      raise UserError(f'{path} has a text of {lengths[0]} tokens, to which all would be cut')
    reading.check(judging_model, tokenizer, lengths[0])
    tokens = np.array([x[: lengths[0]] for x in ids], np.int32)
    packed = pack(documents, tokenizer, lengths[0])
    if len(packed.stream) < 2 * lengths[0]:
      raise UserError(f'{real} is shorter than two texts of {lengths[0]} tokens: give more text')
    record = {
      'data': path,
      'texts': len(tokens),
      'length': lengths[0],
      **generated.measure(judging_model, tokens, packed.spread(2 * len(ids)), batch_size),
      **{name: lines[0].get(name) for name in _DRAWN_BY},
      'network_calls': max(x.get('network_calls', 0) for x in lines),
      'judge': str(judge_directory),
      'judge_step': judging_model.step,
      'real': real,
      'retokenised': retokenise,
    }
    _keep(directory / 'judged.jsonl', record)
    records.append(record)
  return records


def _is_of(tokenizer: Tokenizer, text: str, ids: Sequence[int]) -> bool:
  """Whether a tokenizer reads ids as a text."""
  return all(0 <= i < tokenizer.vocab_size for i in ids) and tokenizer.decode(ids) == text


def _samples(path: str) -> list[dict[str, Any]]:
  """Returns the records of a file that `sample` wrote."""
  if not pathlib.Path(path).exists():
    raise UserError(f'{path} does not exist: `python -m ardiff_jax.sample --out={path}` writes one')
  lines = workdir.read_lines(pathlib.Path(path))
  if not all(isinstance(x, dict) and {'text', 'token_ids'} <= set(x) for x in lines) or not lines:
    raise UserError(f'{path} holds no samples, lines of JSON with "text" and "token_ids"')
  if any(x.get('prompt') or x.get('infill') for x in lines):
    raise UserError(f'{path} has texts that were given in part: only what was drawn can be judged')
  for name in _DRAWN_BY:
    if any(x.get(name) != lines[0].get(name) for x in lines):
      raise UserError(
        f'{path} has texts of several kinds ({name}): give each kind a file, by --out'
      )
  return lines


def _keep(path: pathlib.Path, record: dict[str, Any]) -> None:
  """Appends a record, all of whose figures must be numbers."""
  for name, value in record.items():
    if isinstance(value, float) and not math.isfinite(value):
      raise UserError(f'{name} of {record["data"]} is {value}: the model has diverged')
  workdir.append(path, [record])


def _load(directory: pathlib.Path, settings: Settings):
  """Returns the model, its method on the rows that are asked for, and how many are drawn."""
  import ardiff_jax  # after the flags are known to be good
  from ardiff_jax import method as method_lib

  model = ardiff_jax.load(directory, settings.checkpoint)
  method = model.method
  if settings.hyperschedule or settings.own_chain:
    schedule = method.hyperschedule
    if settings.hyperschedule:
      schedule = method_lib.parse_hyperschedule(settings.hyperschedule, model.config.data.length)
    method = method_lib.measured_on(method, schedule, settings.own_chain)
  if settings.rows == 'all':
    return model, method, None
  return model, method, settings.rows or model.config.eval.num_samples


def _spread(found: list, most: int | None) -> list:
  """Returns at most so many items, evenly spread."""
  if most is None or most >= len(found):
    return found
  return [found[i * len(found) // most] for i in range(most)]


def _named(path: str, encode, found: list, model, too_long: str):
  """Returns items as rows; an error says which file they are of."""
  try:
    return encode(found, model.tokenizer, model.config.data.length, too_long)
  except UserError as error:
    raise UserError(f'{path}: {error}') from None


def _stderr(values_N: np.ndarray) -> float | None:
  return float(values_N.std(ddof=1) / len(values_N) ** 0.5) if len(values_N) > 1 else None


def _score(model, method, num_samples, name: str, packed: Packed, batch_size) -> dict[str, Any]:
  progress = Progress(f'evaluate {name}', len(packed.stream))
  result = model.likelihood(
    packed,
    num_samples=num_samples,
    seed=model.config.seed,
    method=method,
    batch_size=batch_size,
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
