"""Named sets of text for zero-shot perplexity, as documents of ordinary text.

  wikitext        a known set, its standard file below the folder of sets
  wikitext:FILE   a file of one's own in the format of that set
  FILE            any other UTF-8 text: one document, as it is

Several sets come as tokens with spaces between; a model of ordinary text is scored on the text
they were made of, as far as it can be told. The convention began with Megatron-LM (arXiv
1909.08053, NVIDIA/Megatron-LM) and grew in SEDD (2310.16834) and MDLM (2406.07524); the rules here
are our own. They keep `<unk>` and the `N` of a number, which MDLM writes as `?` and `1` in PTB, and
join `%`, degrees, `/` and amounts of money everywhere. So published perplexities compare roughly.
"""

import csv
import difflib
import html
import io
import json
import os
import pathlib
import re
from collections.abc import Callable
from typing import Any, NamedTuple

from ardiff_jax.data.corpus import read_text
from ardiff_jax.errors import UserError

# Where the standard files of the known sets lie, unless a command is told otherwise.
FOLDER = pathlib.Path(os.environ.get('ARDIFF_DATA', 'data'))


class TextSet(NamedTuple):
  """A known set: its standard file, how that is read, and what to say beside its figures.

  Attributes:
    path: below the folder of sets.
    split: a file into raw documents; a ValueError names a wrong line.
    detokenise: a raw document into ordinary text.
    note: of the standard file.
    form: what a file of one's own is taken to be.
  """

  path: str
  split: Callable[[str], list[str]]
  detokenise: Callable[[str], str]
  note: str
  form: str


def read(name: str, folder: pathlib.Path = FOLDER) -> list[str]:
  """Returns the documents of a set, none of them empty.

  Args:
    name: a key of `KNOWN`, 'KEY:FILE', or a text file.
    folder: where the standard files of the known sets lie.

  Raises:
    UserError: `name` is neither set nor file; its file is missing, empty, binary, not UTF-8 or
      not in the format of the set; or no document is in it.
  """
  key, _, file = name.partition(':')
  if key not in KNOWN:
    if not pathlib.Path(name).expanduser().exists():
      raise UserError(_unknown(name))
    return [read_text(name)]
  known = KNOWN[key]
  path = pathlib.Path(file).expanduser() if file else folder / known.path
  if not file and not path.exists():
    raise UserError(
      f'The set {key} has no file {path}: $ARDIFF_DATA, or --data_dir of evaluate, names the '
      f'folder of known sets, and {key}:FILE reads one from elsewhere.'
    )
  try:
    raw = known.split(read_text(path).replace('\r\n', '\n'))
  except ValueError as error:
    raise UserError(f'{path}, {error}') from None
  documents = [text for text in (known.detokenise(x).strip() for x in raw) if text]
  if not documents:
    raise UserError(f'{path} holds no document of the set {key}.')
  return documents


def note(name: str) -> str:
  """Returns what must stand beside the figures of a set, or what the file of 'KEY:FILE' is taken to
  be; '' for files read as they are."""
  key, _, file = name.partition(':')
  if key not in KNOWN:
    return ''
  return f'read as {KNOWN[key].form}' if file else KNOWN[key].note


def _unknown(name: str) -> str:
  key, colon, file = name.partition(':')
  near = difflib.get_close_matches(key.lower(), KNOWN, n=1)
  return (
    f'{name!r} is neither a text file nor a known set: those are {", ".join(KNOWN)}, and SET:FILE '
    "reads a file of one's own as one of them."
  ) + (f' Did you mean {near[0]}{colon}{file}?' if near else '')


def _articles(text: str) -> list[str]:
  """Cuts WikiText before each title: a line ` = Title = ` between blank lines."""
  return re.split(r'(?m)^ ?\n(?= ?= (?!= ).+ = ?\n ?$)', text)


def _lines(text: str) -> list[str]:
  return text.split('\n')


def _json_texts(text: str) -> list[str]:
  documents = []
  for number, line in enumerate(text.split('\n'), 1):
    if line.strip():
      try:
        documents.append(json.loads(line)['text'].strip())
      except (ValueError, KeyError, TypeError, AttributeError):
        raise ValueError(f'line {number} is no {{"text": ...}} in JSON.') from None
  return documents


def _news(text: str) -> list[str]:
  """Reads rows of class, title and description; returns title and description, a line each."""
  rows = csv.reader(io.StringIO(text, newline=''), skipinitialspace=True)
  documents = []
  try:
    for row in filter(None, rows):
      label, title, description = row
      int(label)
      documents.append(f'{title}\n{description}')
  except (ValueError, csv.Error):
    raise ValueError(f'line {rows.line_num} is no row of class, title and description.') from None
  return documents


def _rules(*pairs: tuple[str, Any]) -> list[tuple[re.Pattern, Any]]:
  """Returns what `_rewrite` does one after the other; ^ and $ are ends of lines."""
  return [(re.compile(pattern, re.MULTILINE), replacement) for pattern, replacement in pairs]


def _rewrite(text: str, rules: list[tuple[re.Pattern, Any]]) -> str:
  for pattern, replacement in rules:
    text = pattern.sub(replacement, text)
  return text


_END = r'(?![^\s"\')\]}.,;:!?])'  # of a token, which marks may have been joined to
_STOP = rf' \.(?!\.){_END}'
_SPACES = _rules(
  (r"(?<=\S) ((?i:n't|'(?:s|t|re|ve|ll|d|m)))\b(?!')", r'\1'),
  (r"(?<![^']s )(?<!\S)' ([^'\n]*?) '(?!\S)", r"'\1'"),
  (r"(?<=\ws) '(?!\S)", "'"),  # of a plural, which opens no quote above
  (r'(?<!\S)" ([^"\n]*?) "(?!\S)', r'"\1"'),
  (r'([(\[{]) ', r'\1'),
  (r' ([)\]}])', r'\1'),
  (r'(?<=[\w>]) / (?=[\w<])', '/'),
  (r'(?<=[$£€]) (?=[\d<])', ''),
  (rf'(?<! \.){_STOP}(?!{_STOP})', '.'),  # one alone: the dots of . . . stay apart
  (rf' ([,;:!?%°′″]){_END}', r'\1'),
)
_WIKITEXT = _rules(
  (r'^ +| +$', ''),
  (r' @([-,.])@(?: |$)', r'\1'),
  (r'(?<==) (?==)', ''),
  (r"(?<=\S) ' s\b", "'s"),
)
_BRACKETS = {'-lrb-': '(', '-rrb-': ')', '-lsb-': '[', '-rsb-': ']', '-lcb-': '{', '-rcb-': '}'}
_PTB = _rules(
  (r'\\([/*])', r'\1'),
  (r'(?i)-[lr][rsc]b-', lambda match: _BRACKETS[match[0].lower()]),
  (r"``|''", '"'),
  (r'(?<=[$#]) (?=N\b|[\d<])', ''),
)
_LM1B = _rules((r'\b(https?) : / / ', r'\1://'))
_LAMBADA = _rules((r"[“”]|``|''", '"'))
_AG_NEWS = _rules(
  (r'(?:^| |&)(#\d+|quot|amp|lt|gt|nbsp);', lambda match: html.unescape(f'&{match[1]};')),
  (r'\\(?=\$)', ''),
  (r'[\\\s]+', ' '),
)


def detokenise_wikitext(text: str) -> str:
  """Undoes ` @-@ `, ` @,@ `, ` @.@ `, `= = Heading = =` and the spaces around marks.

  Marks are punctuation, brackets, paired quotes, apostrophes, `%`, degrees, `/` and amounts. Left:
  `<unk>`, the `=` of headings, dashes, dots in a row, curly quotes, quotes that have no partner in
  their line.
  """
  return _rewrite(text, _WIKITEXT + _SPACES)


def detokenise_ptb(text: str) -> str:
  r"""Undoes ` n't`, ` 's`, `$ N`, `\/`, `-lrb-` and the like, `` and '', spaces around marks.

  Left: `<unk>`, `N`, lower case, and the lack of punctuation in the usual release.
  """
  return _rewrite(text, _PTB + _SPACES)


def detokenise_lm1b(text: str) -> str:
  """Undoes `don 't`, `$ 5`, `http : / / ` and the spaces around marks, as in WikiText.

  Left: hyphens, which the release does not split, and its dashes, which stand alone.
  """
  return _rewrite(text, _LM1B + _SPACES)


def detokenise_lambada(text: str) -> str:
  """Undoes ``, '' and curly double quotes, and the spaces around marks of the raw variant.

  Left: its lower case, curly apostrophes, dots in a row. Of the variant that is detokenised
  already it changes little but the curly quotes.
  """
  return _rewrite(text, _LAMBADA + _SPACES)


def detokenise_ag_news(text: str) -> str:
  r"""Undoes ` #39;s`, ` quot;` and other entities, `\$`, and the `\` of a lost line break.

  Every gap becomes one space, that between title and description, too. Left: tags; an & alone,
  which was lost, stays so.
  """
  return _rewrite(text, _AG_NEWS)


_ABSTRACTS = 'abstracts, a stand-in for the articles of scientific_papers'
_PLAIN = 'ordinary text, a document a line; the JSON and the tokens of scientific_papers stay as is'
_SENTENCES = 'tokens, a sentence a line, which are joined again'
KNOWN = {
  'wikitext': TextSet(
    'wikitext-2/valid.txt',
    _articles,
    detokenise_wikitext,
    'validation part, rare words as <unk>',
    'articles of tokens, which are joined again',
  ),
  'lambada': TextSet(
    'lambada/lambada_test.jsonl',
    _json_texts,
    detokenise_lambada,
    'whole passages',
    'JSON with a text a line, whose tokens are joined again',
  ),
  'pubmed': TextSet('pubmed_abstracts/abstracts.txt', _lines, str, _ABSTRACTS, _PLAIN),
  'arxiv': TextSet('arxiv_abstracts/abstracts.dev.txt', _lines, str, _ABSTRACTS, _PLAIN),
  'ptb': TextSet(
    'ptb/ptb.test.txt',
    _lines,
    detokenise_ptb,
    '<unk> and N kept, where MDLM has ? and 1',
    _SENTENCES,
  ),
  'lm1b': TextSet(
    'lm1b/news.en.heldout-00000-of-00050',
    _lines,
    detokenise_lm1b,
    'the first of 50 held-out files',
    _SENTENCES,
  ),
  'ag_news': TextSet(
    'ag_news/test.csv',
    _news,
    detokenise_ag_news,
    'titles and descriptions',
    'rows of class, title and description, whose entities are undone',
  ),
}
