"""Perplexities of a sweep in the layout of table 1 of HDLM (arXiv 2504.06416), as Markdown.

A perplexity is exp of the mean over seeds of nats per token. The standard error of that mean has
two parts, added in quadrature: the standard deviation of the seeds' nats / √seeds, none for a
single seed, and the mean of their `stderr`, which is over rows of text. All seeds read the same
rows, so the second part is one error that they share: more seeds make it no smaller, and it is not
divided by √seeds. The noise drawn for a bound is in both, so the error is rather too large. That of
a perplexity is this error times the perplexity; bits per byte have theirs in the same way.
"""

import math
import re
import statistics
from collections.abc import Sequence
from typing import NamedTuple

from ardiff_jax.ablation import markdown
from ardiff_jax.ablation import records as lib
from ardiff_jax.ablation.records import Record
from ardiff_jax.evaluation import sets

_ORDER = 'Transformer', 'SEDD', 'MDLM', 'BD3-LM', 'γ-hybrid', 'ε-hybrid'  # of the paper's rows

_PUBLISHED = """\
## Published, for orientation only: other models, other data, 524 B tokens of \
OpenWebText, GPT-2 tokens; not comparable with the figures above

|  | WikiText | LAMBADA | PubMed | arXiv |
|---|---:|---:|---:|---:|
| Transformer (AR, retrained) | 25.75 | 51.28 | 49.01 | 41.73 |
| SEDD (retrained) | ≤ 34.28 | ≤ 49.86 | ≤ 44.53 | ≤ 38.48 |
| MDLM | ≤ 32.83 | ≤ 47.52 | ≤ 41.89 | ≤ 37.37 |

Zero-shot perplexities after 524 B tokens, as table 3 of MDLM's paper (arXiv 2406.07524) has them.
Those of BD3-LM (arXiv 2503.09573) and of the hybrids (HDLM, arXiv 2504.06416) stand in tables of
these papers and are not repeated here.
"""


class Estimate(NamedTuple):
  """A mean over seeds, and its standard error, see above; 0 where there is nothing to tell it."""

  value: float
  error: float


class Cell(NamedTuple):
  """What a method came to on a set of text, over so many seeds.

  Attributes:
    perplexity: per token.
    bits: per byte; None if it was not taken.
    is_bound: whether both are upper bounds.
    seeds: those that have a figure.
  """

  perplexity: Estimate
  bits: Estimate | None
  is_bound: bool
  seeds: int


def to_markdown(records: Sequence[Record]) -> str:
  """Returns tables of perplexities, bits per byte and released rates, and what was published.

  Rows are methods and columns sets of text, in the order in which they first come, but the paper's
  methods in its own; what has only failed is an empty cell. In bold is the lowest upper bound of a
  column: the figures of diffusion models are bounds, those of the models that they are held against
  are exact.

  Args:
    records: each method, setting and seed once. Those of the tasks 'perplexity' and 'released'
      count, with 'data' among the settings.
  """
  tried = [record for record in records if record['task'] == 'perplexity']
  released = [r for r in records if r['task'] == 'released' and not lib.failed(r)]
  groups = lib.distinct(record.get('group') for record in tried)
  parts = ['# Perplexity\n']
  for group in groups:
    if len(groups) > 1:
      parts.append(f'## {group}\n')
    parts += _perplexities([record for record in tried if record.get('group') == group])
  if released:
    parts += _released(released)
  if notes := _notes([*tried, *released]):
    parts.append(notes)
  if laws := lib.laws(tried):
    parts.append(''.join(f'- {law}\n' for law in laws))
  return '\n'.join([*parts, _PUBLISHED])


def _perplexities(records: Sequence[Record]) -> list[str]:
  """Returns the tables of a group, and what stands in them."""
  cells = {
    title: {text: cell for text, part in row.items() if (cell := _cell(part))}
    for title, row in _rows(records).items()
  }
  texts = lib.distinct(record['settings']['data'] for record in records)
  counts = [cell.seeds for row in cells.values() for cell in row.values()]
  seeds = ' to '.join(str(x) for x in sorted({min(counts, default=0), max(counts, default=0)}))
  return [
    f'Perplexity per token, ± a standard error over training (seeds: {seeds}) and over text. '
    '≤ is an upper bound, in bold the lowest of its column. Perplexities compare between models of '
    'one tokenizer, bits per byte between all.\n',
    _table(cells, texts, 'perplexity', 2),
    'Bits per byte:\n',
    _table(cells, texts, 'bits', 3),
  ]


def _rows(records: Sequence[Record]) -> dict[str, dict[str, list[Record]]]:
  """Returns the records by method and by set of text; where a method has been tried with several
  settings besides, each is a method of its own."""
  axes = [axis for axis in lib.axes(records) if axis != 'data']
  rows = {}
  for record in records:
    settings = lib.settings(record)
    varied = markdown.named({axis: settings.get(axis) for axis in axes})
    title = f'{record["name"]}, {varied}' if varied else record['name']
    rows.setdefault(title, {}).setdefault(settings['data'], []).append(record)
  place = lambda title: _ORDER.index(title) if title in _ORDER else -1  # noqa: E731
  return dict(sorted(rows.items(), key=lambda row: place(row[0])))


def _cell(records: Sequence[Record]) -> Cell | None:
  """Returns what the seeds of a method came to; None if all have failed."""
  done = [r for r in records if not lib.failed(r) and lib.metric(r, 'nats') is not None]
  if not done:
    return None
  nats, errors, bits = (
    [lib.metric(record, name) for record in done] for name in ('nats', 'stderr', 'bits_per_byte')
  )
  mean = _estimate(nats, errors)
  perplexity = _perplexity(mean.value)
  return Cell(
    perplexity=Estimate(perplexity, perplexity * mean.error),
    bits=None
    if None in bits
    else _estimate(bits, [(e or 0.0) * b / n for e, b, n in zip(errors, bits, nats, strict=True)]),
    is_bound=not all(lib.metric(record, 'exact') for record in done),
    seeds=len(done),
  )


def _estimate(values: Sequence[float], errors: Sequence[float | None]) -> Estimate:
  """Returns the mean over seeds; `errors` are those of the text, None where nothing tells them."""
  between = statistics.variance(values) / len(values) if len(values) > 1 else 0.0
  shared = statistics.fmean(error or 0.0 for error in errors)
  return Estimate(statistics.fmean(values), math.hypot(math.sqrt(between), shared))


def _perplexity(nats: float) -> float:
  return math.exp(min(nats, 700.0))


def _table(cells: dict[str, dict[str, Cell]], texts: Sequence[str], kind: str, digits: int) -> str:
  """Returns the table of one kind of figure, a field of `Cell`."""
  best = {}
  for row in cells.values():
    for text, cell in row.items():
      if cell.is_bound and getattr(cell, kind):
        best[text] = min(best.get(text, math.inf), getattr(cell, kind).value)
  rows = []
  for title, row in cells.items():
    shown = [title]
    for text in texts:
      figure = getattr(row.get(text), kind, None)
      if figure is None:
        shown.append('')
        continue
      written = ('≤ ' if row[text].is_bound else '') + _written(figure, digits)
      is_best = row[text].is_bound and figure.value == best[text]
      shown.append(f'**{written}**' if is_best else written)
    rows.append(shown)
  return markdown.table(['method', *texts], 1, rows)


def _written(figure: Estimate, digits: int, sign: str = '') -> str:
  value = f'{figure.value:{sign}.{digits}f}'
  return f'{value} ± {figure.error:.{digits}f}' if figure.error else value


def _released(records: Sequence[Record]) -> list[str]:
  """Returns the table of the rates of score entropy, and what to think of it."""
  rows = []
  for title, row in _rows(records).items():
    for text, part in row.items():
      done = [r for r in part if lib.metric(r, 'difference') is not None]
      if not done:
        continue
      exact, published, difference, errors = (
        [lib.metric(record, name) for record in done]
        for name in ('nats', 'released_nats', 'difference', 'stderr')
      )
      rows.append(
        [
          title,
          text,
          f'≤ {_perplexity(statistics.fmean(exact)):.2f}',
          f'{_perplexity(statistics.fmean(published)):.2f}',
          _written(_estimate(difference, errors), 3, '+'),
        ]
      )
  titles = ['method', 'text', 'by the exact rate', 'by the published weighting']
  return [
    '## The rate of the γ-hybrid, and the weighting that was published in its stead\n',
    'Perplexity per token, and the difference in nats, of the same text at the same draws.\n',
    markdown.table([*titles, 'difference, nats'], 2, rows),
    'The second is no bound: its loss has a minimum below the entropy of the text, so it may be '
    'lower than any model can have a perplexity.\n',
  ]


def _notes(records: Sequence[Record]) -> str:
  """Returns what must stand beside the figures of the sets, a line each."""
  texts = lib.distinct(record['settings']['data'] for record in records)
  notes = {text: sets.note(text) for text in texts}
  notes = {text: re.sub(r'<\w+>', r'`\g<0>`', note) for text, note in notes.items()}
  return ''.join(f'- {text}: {note}\n' for text, note in notes.items() if note)
