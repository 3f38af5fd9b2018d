"""Tokenizers: bytes, sentencepiece and GPT-2 BPE behind one small interface.

A tokenizer lives in the work directory as its own files plus a manifest, `tokenizer.json`,
written last: where the manifest stands, the tokenizer is whole.
"""

import abc
import hashlib
import io
import json
import os
import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from typing import Any

import sentencepiece
import tokenizers as hf_tokenizers

from ardiff_jax import paths
from ardiff_jax.errors import UserError

MASK_PIECE = '▒'
_MANIFEST = 'tokenizer.json'
_TRAIN_CHARS = 20_000_000  # More text than this no longer changes a BPE vocabulary.
_TRAIN_LINE_CHARS = 1000  # Sentencepiece silently skips training lines above 4192 bytes.
_WORD_START = re.compile(r'(?<=\S)(?=[ \n])')


class Tokenizer(abc.ABC):
  """Text to token ids and back; ids run over 0..vocab_size-1, the mask is not among them.

  Attributes:
    kind: the value of the config field `kind` that builds it.
    name: what reports call it, e.g. "sentencepiece-bpe-2048".
    files: the content of each file it is rebuilt from.
    vocab_size: number of ids; the id `vocab_size` itself is the mask of the models.
    eos_id: id that ends every document.
    bos_id: id that starts a sequence; the same as `eos_id` where there is only one.
  """

  kind: str
  vocab_size: int
  eos_id: int
  bos_id: int

  def __init__(self, name: str, files: Mapping[str, bytes]):
    self.name = name
    self.files = files

  @abc.abstractmethod
  def _encode(self, text: str) -> list[int]:
    """Encodes valid Unicode."""

  @abc.abstractmethod
  def _decode(self, ids: list[int]) -> str:
    """Decodes ids known to be in range and not special."""

  @abc.abstractmethod
  def _piece(self, token_id: int) -> str | bytes:
    """Returns one id, in range and not special, as text or as the bytes it stands for."""

  def encode(self, text: str) -> list[int]:
    """Returns the ids of `text`, without bos or eos.

    Raises:
      UserError: `text` holds a lone surrogate, which no UTF-8 file can.
    """
    try:
      text.encode()
    except UnicodeEncodeError as error:
      raise UserError(
        f'The text is not valid Unicode: lone surrogate at character {error.start}.'
      ) from None
    return self._encode(text)

  def decode(self, ids: Iterable[int]) -> str:
    """Returns the text of `ids`; bos and eos give no text, invalid UTF-8 gives U+FFFD.

    Raises:
      ValueError: an id outside 0..vocab_size-1, the mask included.
    """
    ids = [int(i) for i in ids]
    for i in ids:
      if not 0 <= i < self.vocab_size:
        mask = ' (the mask)' if i == self.vocab_size else ''
        raise ValueError(f'token id {i}{mask} is outside 0..{self.vocab_size - 1}')
    return self._decode([i for i in ids if i not in (self.bos_id, self.eos_id)])

  def pieces(self, ids: Iterable[int]) -> list[str]:
    """Returns display text of each id on its own, for pictures of sampling traces.

    The mask gives "▒", eos "⏎EOS"; bytes that are no text and characters that do not
    print are escaped as in Python, e.g. "\\xe2" and "\\n".

    Raises:
      ValueError: an id outside 0..vocab_size.
    """
    return [self._display(int(i)) for i in ids]

  def _display(self, token_id: int) -> str:
    if not 0 <= token_id <= self.vocab_size:
      raise ValueError(f'token id {token_id} is outside 0..{self.vocab_size}')
    if token_id == self.vocab_size:
      return MASK_PIECE
    if token_id in (self.eos_id, self.bos_id):
      return '⏎EOS' if token_id == self.eos_id else '⏎BOS'
    piece = self._piece(token_id)
    if isinstance(piece, bytes):
      piece = piece.decode(errors='backslashreplace')
    return ''.join(c if c.isprintable() else c.encode('unicode_escape').decode() for c in piece)

  def save(self, directory: str | os.PathLike) -> None:
    """Writes all that `load_tokenizer` needs; no reader ever sees a half-written file.

    Raises:
      UserError: the directory cannot be written.
    """
    directory = paths.path_of(directory)
    sha256 = {name: hashlib.sha256(data).hexdigest() for name, data in self.files.items()}
    manifest = {'kind': self.kind, 'name': self.name, 'sha256': sha256}
    try:
      directory.mkdir(parents=True, exist_ok=True)
      for name, data in self.files.items():
        paths.write_whole(directory / name, data)
      paths.write_whole(directory / _MANIFEST, json.dumps(manifest, indent=2).encode() + b'\n')
    except OSError as error:
      raise UserError(f'Cannot write the tokenizer to {directory}: {error.strerror}.') from None


class ByteTokenizer(Tokenizer):
  """UTF-8 bytes, with id 256 for both eos and bos."""

  kind = 'byte'
  vocab_size = 257
  eos_id = bos_id = 256

  def _encode(self, text: str) -> list[int]:
    return list(text.encode())

  def _decode(self, ids: list[int]) -> str:
    return bytes(ids).decode(errors='replace')

  def _piece(self, token_id: int) -> bytes:
    return bytes([token_id])


class SentencePieceTokenizer(Tokenizer):
  """A sentencepiece model: lossless where trained here, as lossy as it is where given."""

  kind = 'sentencepiece'
  file = 'tokenizer.model'

  def __init__(self, name: str, files: Mapping[str, bytes]):
    super().__init__(name, files)
    self._model = sentencepiece.SentencePieceProcessor(model_proto=files[self.file])
    self.vocab_size = self._model.vocab_size()
    self.eos_id = self._model.eos_id()
    self.bos_id = self._model.bos_id() if self._model.bos_id() >= 0 else self.eos_id
    if self.eos_id < 0:
      raise ValueError('the model has no end-of-sentence piece')
    # Sentencepiece writes a space as U+2581, so a literal U+2581 has to go in as its bytes.
    ids = [self._model.piece_to_id(f'<0x{byte:02X}>') for byte in '\u2581'.encode()]
    self._underline_ids = ids if all(self._model.is_byte(i) for i in ids) else None

  def _encode(self, text: str) -> list[int]:
    if self._underline_ids is None:
      return self._model.encode(text)
    first, *rest = text.split('\u2581')
    ids = self._model.encode(first)
    for part in rest:
      ids += self._underline_ids + self._model.encode(part)
    return ids

  def _decode(self, ids: list[int]) -> str:
    return self._model.decode(ids)

  def _piece(self, token_id: int) -> str | bytes:
    piece = self._model.id_to_piece(token_id)
    if self._model.is_byte(token_id):
      return bytes([int(piece[3:5], 16)])  # "<0xE2>"
    return piece.replace('\u2581', ' ')


class GPT2Tokenizer(Tokenizer):
  """GPT-2's byte-level BPE from its `vocab.json` and `merges.txt`; eos and bos are one."""

  kind = 'gpt2'

  def __init__(self, name: str, files: Mapping[str, bytes]):
    super().__init__(name, files)
    vocab = json.loads(files['vocab.json'])
    lines = files['merges.txt'].decode().split('\n')
    merges = [tuple(x.split(' ')) for x in lines if x and not x.startswith('#version')]
    byte_level = hf_tokenizers.pre_tokenizers.ByteLevel(add_prefix_space=False)
    self._model = hf_tokenizers.Tokenizer(hf_tokenizers.models.BPE(vocab=vocab, merges=merges))
    self._model.pre_tokenizer = byte_level
    self._model.decoder = hf_tokenizers.decoders.ByteLevel()
    self.vocab_size = self._model.get_vocab_size()
    self.eos_id = self.bos_id = vocab['<|endoftext|>']
    # The alphabet stands for the 256 bytes: Latin-1 where that prints, 256+n in order elsewhere.
    alphabet = sorted(byte_level.alphabet())
    shifted = sorted(set(range(256)) - {ord(c) for c in alphabet})
    self._bytes = {c: ord(c) for c in alphabet if ord(c) < 256}
    self._bytes |= dict(zip((c for c in alphabet if ord(c) >= 256), shifted, strict=True))

  def _encode(self, text: str) -> list[int]:
    return self._model.encode(text).ids

  def _decode(self, ids: list[int]) -> str:
    return self._model.decode(ids)

  def _piece(self, token_id: int) -> bytes:
    return bytes(self._bytes[c] for c in self._model.id_to_token(token_id))


_KINDS = {x.kind: x for x in (ByteTokenizer, SentencePieceTokenizer, GPT2Tokenizer)}


def build_tokenizer(config: Any, train_documents: Sequence[str]) -> Tokenizer:
  """Returns the tokenizer that `config` describes; `save` it to keep it.

  Args:
    config: has `kind` ("byte", "sentencepiece" or "gpt2"), `path` (a sentencepiece model
      file or the directory of GPT-2's two files; "" trains on the corpus) and `vocab_size`
      (wished for when training; a small corpus may give less).
    train_documents: what to train on.

  Raises:
    UserError: unknown kind, unusable `path` or `vocab_size`.
  """
  _check_kind(config.kind)
  if config.kind == 'byte':
    return ByteTokenizer('byte', {})
  if config.kind == 'gpt2':
    if not config.path:
      raise UserError(
        'The gpt2 tokenizer needs config.tokenizer.path: '
        'the directory that holds vocab.json and merges.txt.'
      )
    files = _read_files(config.path, ('vocab.json', 'merges.txt'))
    return _open('gpt2', 'gpt2', files, config.path)
  if config.path:
    path = paths.path_of(config.path)
    files = {SentencePieceTokenizer.file: _read_files(path.parent, (path.name,))[path.name]}
    return _open('sentencepiece', f'sentencepiece-{path.stem}', files, config.path)
  return _train_sentencepiece(train_documents, config.vocab_size)


def load_tokenizer(directory: str | os.PathLike, config: Any) -> Tokenizer:
  """Returns the tokenizer saved in `directory`; `config` as in `build_tokenizer`.

  Raises:
    UserError: nothing saved there, another kind than `config.kind`, a damaged file.
  """
  _check_kind(config.kind)
  manifest_path = paths.path_of(directory) / _MANIFEST
  try:
    manifest = json.loads(_read_files(directory, (_MANIFEST,))[_MANIFEST])
    kind, name, sha256 = manifest['kind'], manifest['name'], manifest['sha256']
  except (ValueError, KeyError, TypeError):
    raise UserError(f'The tokenizer manifest {manifest_path} is damaged.') from None
  if kind != config.kind:
    raise UserError(
      f'{manifest_path} is of a {kind} tokenizer, but the config asks for {config.kind}.'
    )
  files = _read_files(directory, sha256)
  for file, data in files.items():
    if hashlib.sha256(data).hexdigest() != sha256[file]:
      raise UserError(
        f'The tokenizer file {paths.path_of(directory) / file} is damaged: '
        'its checksum is not the one it was saved with.'
      )
  return _open(kind, name, files, directory)


def split_text(text: str, size: int) -> Iterator[str]:
  """Yields parts of `text`, at least `size` characters each but the last; joined, all of it.

  Cuts fall before a space or a newline that ends a word, where no tokenizer built here merges
  across: the parts encode to the same ids as the whole, in bounded memory.
  """
  start = 0
  while start < len(text):
    match = _WORD_START.search(text, start + size)
    end = match.start() if match else len(text)
    yield text[start:end]
    start = end


def _train_sentencepiece(documents: Sequence[str], vocab_size: int) -> SentencePieceTokenizer:
  model = io.BytesIO()
  try:
    sentencepiece.SentencePieceTrainer.train(
      sentence_iterator=_train_lines(documents),
      model_writer=model,
      vocab_size=vocab_size,
      hard_vocab_limit=False,  # A small corpus gives a smaller vocabulary, not an error.
      model_type='bpe',
      byte_fallback=True,
      character_coverage=0.9999,
      normalization_rule_name='identity',
      remove_extra_whitespaces=False,
      add_dummy_prefix=False,
      allow_whitespace_only_pieces=True,
      split_digits=True,
      user_defined_symbols=['\n'],
      bos_id=0,
      eos_id=1,
      unk_id=2,
      pad_id=-1,
      num_threads=2,
      minloglevel=2,
    )
  except RuntimeError as error:
    reason = str(error).strip().splitlines()[-1]
    raise UserError(
      f'Cannot train a sentencepiece tokenizer of vocab_size={vocab_size} on this text: {reason}'
    ) from None
  files = {SentencePieceTokenizer.file: model.getvalue()}
  tokenizer = SentencePieceTokenizer('', files)
  tokenizer.name = f'sentencepiece-bpe-{tokenizer.vocab_size}'
  return tokenizer


def _train_lines(documents: Sequence[str]) -> Iterator[str]:
  """Yields short lines of at most `_TRAIN_CHARS` characters in all, spread evenly."""
  keep = min(1.0, _TRAIN_CHARS / max(1, sum(map(len, documents))))
  credit = 0.0
  for document in documents:
    for part in split_text(document, 4096):
      credit += keep * len(part)
      if keep == 1.0 or credit >= len(part):
        credit -= len(part)
        for line in part.split('\n'):
          for start in range(0, len(line), _TRAIN_LINE_CHARS):
            yield line[start : start + _TRAIN_LINE_CHARS]


def _check_kind(kind: str) -> None:
  if kind not in _KINDS:
    raise UserError(f'Unknown tokenizer kind {kind!r}: use one of {", ".join(_KINDS)}.')


def _open(kind: str, name: str, files: Mapping[str, bytes], where: str | os.PathLike) -> Tokenizer:
  try:
    return _KINDS[kind](name, files)
  except Exception as error:  # The libraries raise whatever their parsers do.
    reason = (str(error).splitlines() or [''])[0]
    raise UserError(
      f'{where} holds no usable {kind} tokenizer: {type(error).__name__}: {reason}'
    ) from None


def _read_files(directory: str | os.PathLike, names: Iterable[str]) -> dict[str, bytes]:
  try:
    return {name: (paths.path_of(directory) / name).read_bytes() for name in names}
  except OSError as error:
    raise UserError(f'Cannot read the tokenizer file {error.filename}: {error.strerror}.') from None
