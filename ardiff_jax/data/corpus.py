"""Corpora: the built-in one, the user's own text files, TensorFlow Datasets without TensorFlow."""

import dataclasses
import hashlib
import importlib
import os
import pathlib
import platform
import sysconfig
from collections.abc import Iterable, Sequence
from typing import Any

from ardiff_jax.errors import UserError

_TFDS = 'tfds:'
# Tests, and files that are near-copies: one character table each, the topics kept apart below.
_EXCLUDED_DIRECTORIES = {
  'test',
  'tests',
  'idle_test',
  'encodings',
  'pydoc_data',
  'site-packages',
  'dist-packages',
}


@dataclasses.dataclass(frozen=True)
class Corpus:
  """Documents to train on and documents held out.

  Attributes:
    name: what reports call it.
    train: documents to train on.
    valid: documents held out.
    identity: what tells this text from another: "sha256" of both splits in order, with it "python"
      for the built-in corpus and for files the beginning of each one's own, in "files"; for
      TensorFlow Datasets "name", "version" and "split".
  """

  name: str
  train: Sequence[str]
  valid: Sequence[str]
  identity: dict[str, Any]


def load_corpus(config: Any) -> Corpus:
  """Returns the corpus that `config` describes.

  Args:
    config: has
      `source`: "builtin", the path of a text file or folder, several of them with commas
        between, or "tfds:NAME";
      `valid_source`: held-out text, in the same words; "" holds out a part of `source`;
      `valid_fraction`: how much that is, of the files (built-in), of each file (text) or of
        the documents (tfds, unless `tfds_valid_split` names a split);
      `tfds_dir`, `tfds_split`, `tfds_valid_split`, `tfds_text_key`: where data sets are
        stored ("": the usual place), which splits to read, which feature is the text.

  Raises:
    UserError: the text is missing, empty or not UTF-8, or nothing could be held out.
  """
  if not 0 < config.valid_fraction < 1:
    raise UserError(f'data.valid_fraction={config.valid_fraction} must lie between 0 and 1.')
  documents, identity = _documents(config.source, config.tfds_split, config)
  valid_source = config.valid_source
  if not valid_source and config.source.startswith(_TFDS) and config.tfds_valid_split:
    valid_source = config.source
  if valid_source:
    train = documents
    valid, other = _documents(valid_source, config.tfds_valid_split or config.tfds_split, config)
    identity |= {'files': identity.get('files', {}) | other.get('files', {})}
    _check_apart(config.source, valid_source)
  elif config.source == 'builtin':
    train, valid = _hold_out_every_nth(documents, config.valid_fraction)
  elif config.source.startswith(_TFDS):
    train, valid = _hold_out_last(documents, config.valid_fraction)
  else:
    train, valid = _hold_out_tails(documents, config.valid_fraction)
  if not train or not valid:
    raise UserError(
      f'Nothing could be held out of {config.source}: too few lines or documents. '
      'Give held-out text in data.valid_source.'
    )
  if not config.source.startswith(_TFDS):  # Those are told apart by version, unread.
    identity['sha256'] = _sha256((train, valid))
  return Corpus(_name(config.source), train, valid, identity)


def read_text(path: str | os.PathLike) -> str:
  """Returns the text of a UTF-8 file, line ends and all as they are.

  Raises:
    UserError: the file is missing, unreadable, empty, binary or not UTF-8.
  """
  path = pathlib.Path(path).expanduser()
  try:
    data = path.read_bytes()
  except OSError as error:
    raise UserError(f'Cannot read the text file {path}: {error.strerror}.') from None
  if not data.strip():
    raise UserError(f'The text file {path} is empty.')
  if b'\0' in data:
    offset = data.index(b'\0')
    raise UserError(f'{path} is binary (NUL at byte {offset}); give plain UTF-8 text.')
  try:
    return data.decode()
  except UnicodeDecodeError as error:
    raise UserError(
      f'The text file {path} is not UTF-8 at byte {error.start}; convert it to UTF-8.'
    ) from None


def builtin_documents() -> dict[str, str]:
  """Returns name -> text of this interpreter's documentation topics and standard library.

  Sorted by directory, then name. Tests, character tables, repeated texts and files that are
  not UTF-8 are left out; topics are absent where the interpreter came without them.
  """
  root = pathlib.Path(sysconfig.get_path('stdlib'))
  texts = {f'pydoc_data/topics/{name}': text for name, text in _topics().items()}
  for path in root.rglob('*.py'):
    *directories, name = path.relative_to(root).parts
    if _EXCLUDED_DIRECTORIES.intersection(directories) or name.startswith('_sysconfigdata'):
      continue
    if any(x.startswith('config-') for x in directories):
      continue
    try:
      texts['/'.join([*directories, name])] = path.read_bytes().decode()
    except (OSError, UnicodeDecodeError):
      continue
  documents = {}
  for name in sorted(texts, key=os.path.split):
    documents.setdefault(texts[name], name)  # Of equal texts the first stays.
  return {name: text for text, name in documents.items() if text.strip()}


def _topics() -> dict[str, str]:
  try:
    topics = importlib.import_module('pydoc_data.topics').topics
  except ImportError:  # Some distributions package it apart.
    return {}
  # Many topics are a section of another; kept, they would stand on both sides of the split.
  bodies = {name: text.split('\n', 3)[-1].strip() for name, text in topics.items()}
  return {
    name: text
    for name, text in topics.items()
    if not any(bodies[name] in other for key, other in topics.items() if key != name)
  }


def _documents(source: str, split: str, config: Any) -> tuple[Sequence[str], dict[str, Any]]:
  """Returns the documents of `source` and what identifies them beyond their text."""
  if source == 'builtin':
    return tuple(builtin_documents().values()), {'python': platform.python_version()}
  if source.startswith(_TFDS):
    return _tfds_documents(source.removeprefix(_TFDS), split, config)
  texts = {str(path): read_text(path) for path in _text_files(source)}
  files = {path: hashlib.sha256(text.encode()).hexdigest()[:16] for path, text in texts.items()}
  return tuple(texts.values()), {'files': files}


def _text_paths(source: str) -> list[pathlib.Path]:
  """Returns what `source` lists; a path that exists may itself have a comma in it."""
  whole = pathlib.Path(source).expanduser()
  if source and whole.exists():
    return [whole]
  return [pathlib.Path(x.strip()).expanduser() for x in source.split(',') if x.strip()]


def _text_files(source: str) -> list[pathlib.Path]:
  paths = _text_paths(source)
  if not paths:
    raise UserError("data.source is empty: give 'builtin', a text file or folder, or tfds:NAME.")
  files = []
  for path in paths:
    if not path.exists():
      raise UserError(
        f"No text file or folder {path}; data.source and data.valid_source take 'builtin', "
        'paths, or tfds:NAME.'
      )
    found = _files_in(path) if path.is_dir() else [path]
    if not found:
      raise UserError(f'The folder {path} holds no files.')
    files += found
  return list(dict.fromkeys(files))


def _files_in(folder: pathlib.Path) -> list[pathlib.Path]:
  """Returns the regular files below `folder`, sorted, hidden ones left out."""
  relative = (path.relative_to(folder) for path in folder.rglob('*') if path.is_file())
  return [folder / x for x in sorted(relative) if not any(p.startswith('.') for p in x.parts)]


def _check_apart(source: str, valid_source: str) -> None:
  """Raises where one text file stands on both sides."""
  if any(x == 'builtin' or x.startswith(_TFDS) for x in (source, valid_source)):
    return
  train_files = {path.resolve() for path in _text_files(source)}
  for path in _text_files(valid_source):
    if path.resolve() in train_files:
      raise UserError(f'{path} is in both data.source and data.valid_source; keep it in one.')


def _hold_out_every_nth(documents: Sequence[str], fraction: float) -> tuple[Sequence[str], ...]:
  """Holds out whole documents at even distances, so that every large directory has its share."""
  step = max(2, round(1 / fraction))
  train = tuple(text for i, text in enumerate(documents, 1) if i % step)
  return train, documents[step - 1 :: step]


def _hold_out_last(documents: Sequence[str], fraction: float) -> tuple[Sequence[str], ...]:
  count = max(1, round(len(documents) * fraction))
  return documents[: len(documents) - count], documents[len(documents) - count :]


def _hold_out_tails(documents: Sequence[str], fraction: float) -> tuple[Sequence[str], ...]:
  """Holds out the end of every document from a line start on; one too short stays whole."""
  train, valid = [], []
  for text in documents:
    target = int(len(text) * (1 - fraction))
    cut = (text.rfind('\n', 0, target) + 1) or (text.find('\n', target) + 1)
    if text[:cut].strip() and text[cut:].strip():
      train.append(text[:cut])
      valid.append(text[cut:])
    else:
      train.append(text)
  return tuple(train), tuple(valid)


def _tfds_documents(name: str, split: str, config: Any) -> tuple[Sequence[str], dict[str, str]]:
  import tensorflow_datasets as tfds  # Slow to import, and few runs need it.

  try:
    source = tfds.data_source(name, split=split, data_dir=config.tfds_dir or None)
  except Exception as error:  # Each builder fails in its own way; one line tells enough.
    reason = str(error).strip().splitlines()[:1] or [type(error).__name__]
    where = f' in {config.tfds_dir}' if config.tfds_dir else ''
    raise UserError(f'Cannot open split {split!r} of tfds:{name}{where}: {reason[0]}') from None
  if not len(source):
    raise UserError(f'Split {split!r} of tfds:{name} is empty.')
  key, features = config.tfds_text_key, _example(source, split, 0)
  if key not in features:
    raise UserError(
      f'tfds:{name} has no feature {key!r} for data.tfds_text_key; it has {", ".join(features)}.'
    )
  if not isinstance(features[key], bytes):
    raise UserError(f'The feature {key!r} of tfds:{name} is not text.')
  info = source.dataset_info
  identity = {'name': info.name, 'version': str(info.version), 'split': split}
  return _TfdsText(source, split, key, range(len(source))), identity


class _TfdsText(Sequence):
  """The text of a data source, read when asked for: such sets may exceed the memory."""

  def __init__(self, source: Any, split: str, key: str, rows: range):
    self._source, self._split, self._key, self._rows = source, split, key, rows

  def __len__(self) -> int:
    return len(self._rows)

  def __getitem__(self, index):
    if isinstance(index, slice):
      return _TfdsText(self._source, self._split, self._key, self._rows[index])
    row = self._rows[index]
    try:
      return _example(self._source, self._split, row)[self._key].decode()
    except UnicodeDecodeError as error:
      raise UserError(
        f'Example {row} of {self._source.dataset_info.full_name} is not UTF-8 '
        f'at byte {error.start}.'
      ) from None


def _example(source: Any, split: str, row: int) -> dict[str, Any]:
  try:
    return source[row]
  except Exception as error:  # a shard that is cut short or gone, said in many ways
    place, file = row, source.dataset_info.full_name
    for part in source.dataset_info.splits[split].file_instructions:
      if place < part.take:
        file = part.filename
        break
      place -= part.take
    raise UserError(f'Cannot read example {row} of {file}: {error}') from None


def _sha256(splits: Iterable[Sequence[str]]) -> str:
  """Returns the hash of all documents in order, and of where each ends."""
  digest = hashlib.sha256()
  for documents in splits:
    digest.update(f'{len(documents)} documents\n'.encode())
    for text in documents:
      data = text.encode()
      digest.update(f'{len(data)} bytes\n'.encode())
      digest.update(data)
  return digest.hexdigest()


def _name(source: str) -> str:
  if source == 'builtin':
    return source
  if source.startswith(_TFDS):
    return source.removeprefix(_TFDS)
  return ','.join(path.resolve().name for path in _text_paths(source))
