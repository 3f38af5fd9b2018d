"""The results of a sweep: a table file, Markdown tables and a self-contained page.

They are made of the records in results.jsonl, see `records`, and of what `origins` notes. Tables
show the settings that a sweep goes over; those that make a method what it is are in results.csv.
"""

import base64
import csv
import io
import pathlib
import re
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

import jinja2
from matplotlib.figure import Figure

from ardiff_jax import edits, paths
from ardiff_jax import plots as pictures
from ardiff_jax import workdir as files
from ardiff_jax.ablation import looks, markdown, origins, quality_plots, revision_plots, score_plots
from ardiff_jax.ablation import records as lib
from ardiff_jax.ablation.origins import Origin
from ardiff_jax.ablation.records import UNREVISED, Record
from ardiff_jax.errors import UserError
from ardiff_jax.report import traces

_COLUMNS = {  # of the tables: title, figures after the point; other metrics come after these
  'perplexity': ('perplexity ↓', 2),
  'released_perplexity': ('by the released weighting', 2),
  'nats': ('nats/token ↓', 3),
  'bits_per_byte': ('bits/byte ↓', 3),
  'judge_nats': ('judge nats/token ↓', 3),
  'judge_perplexity': ('judge perplexity ↓', 1),
  'mauve': ('MAUVE ↑', 3),
  'mauve_real': ('MAUVE of real text', 3),
  'mauve_shuffled': ('MAUVE of real text shuffled', 3),
  'entropy': ('entropy', 3),
  'real_entropy': ('entropy of real text', 3),
  'real_judge_nats': ('judge, of real text', 3),
  'distinct_1': ('distinct-1', 3),
  'distinct_2': ('distinct-2', 3),
  'distinct_3': ('distinct-3', 3),
  'self_bleu': ('self-BLEU', 3),
  'repetition': ('rep-4 ↓', 3),
  'repeats': ('repeats ↓', 3),
  'fixed': ('fixed ↑', 3),
  'harmed': ('harmed ↓', 4),
  'precision': ('precision ↑', 3),
  'recall': ('recall ↑', 3),
  'f1': ('F1 ↑', 3),
  'auc': ('AUC ↑', 3),
  'edits': ('edits', 1),
  'edits_per_step': ('edits/step', 2),
  'success': ('as asked ↑', 3),
  'changed': ('changed', 3),
  'edit_distance': ('edit distance', 3),
  'draft_nats': ('draft nats/token', 3),
  'calls': ('calls ↓', 1),
  'draft_calls': ('draft calls', 1),
  'early_stop': ('early stop', 2),
  'seconds': ('s a text ↓', 3),
  'texts': ('texts', 0),
  'seconds_p50': ('s, median ↓', 3),
  'seconds_p95': ('s, 95th percentile ↓', 3),
}
_SCORES = {  # pictures of tasks: title, figure, its label, and the setting of its panels
  'perplexity': ('Texts', 'bits_per_byte', 'bits per byte (less is better)', 'data'),
  'likelihood': ('Orders', 'nats', 'nats per token (less is better)', 'order'),
  'infilling': ('Gaps', 'rougeL', 'ROUGE-L of what was filled in (more is better)', 'steps'),
  'choices': ('Right choices', 'accuracy', 'share of right choices (more is better)', 'file'),
}
_BOUNDED = 'perplexity', 'nats', 'bits_per_byte'
_NUMBER = re.compile(r'\d+(?:\.\d+)?')
_LABELS = ('task', 'group', 'name', 'seed', 'model')  # of a record, as they stand in results.csv


class Table(NamedTuple):
  """What a group of a task came to, as text.

  Attributes:
    task, group: which.
    common: the settings that all its records share.
    titles: of the columns.
    labels: how many columns, the first ones, are no figures: the method, and axes of the sweep.
    rows: cells, one a title; ≤ is an upper bound.
    laws: whose law likelihoods are of.
    precision: in which the networks wrote texts; '' where nothing tells it.
    warnings: what to beware of, and of which methods.
  """

  task: str
  group: str
  common: str
  titles: list[str]
  labels: int
  rows: list[list[str]]
  laws: list[str]
  precision: str
  warnings: list[str]


def write(workdir: pathlib.Path) -> pathlib.Path:
  """Writes results.csv, results.md and results.html, each whole or not at all.

  Where a method, setting and seed has several records, the last counts.

  Args:
    workdir: has results.jsonl.

  Returns:
    The path of results.html.

  Raises:
    UserError: results.jsonl is missing, or it or starts.jsonl is damaged.
  """
  if not (workdir / 'results.jsonl').exists():
    raise UserError(f'{workdir} holds no results.jsonl: it is no work directory of a sweep')
  records = lib.newest(files.read_lines(workdir / 'results.jsonl'))
  title = workdir.resolve().name
  paths.write_whole(workdir / 'results.csv', to_csv(records))
  starts = origins.read(workdir)
  head = f'# {title}\n\nMeans over seeds ± their standard errors.\n\n'
  text = f'{head}{tables(records)}{_how_it_came_about(starts)}'
  paths.write_whole(workdir / 'results.md', text)
  paths.write_whole(workdir / 'results.html', page(records, title, starts))
  return workdir / 'results.html'


def to_csv(records: Sequence[Record]) -> str:
  """Returns a line per record: labels, settings, metrics and error, under a line of their names.

  A setting that is named like another column is headed 'settings.NAME'. Where texts are written,
  'dtype' is the precision of the network.
  """
  labels = [*_LABELS, *(['dtype'] if any(record.get('dtype') for record in records) else [])]
  settings = lib.distinct(key for record in records for key in record.get('settings') or {})
  metrics = _metrics(records)
  taken = {*labels, *metrics, 'error'}
  heads = [f'settings.{key}' if key in taken else key for key in settings]
  file = io.StringIO()
  writer = csv.writer(file, lineterminator='\n')
  writer.writerow([*labels, *heads, *metrics, 'error'])
  for record in records:
    cells = [record.get(label) for label in labels]
    cells += [(record.get('settings') or {}).get(key) for key in settings]
    cells += [(record.get('metrics') or {}).get(key) for key in metrics]
    cells.append(record.get('error'))
    writer.writerow([lib.identity(x) if isinstance(x, dict | list) else x for x in cells])
  return file.getvalue()


def tables(records: Sequence[Record]) -> str:
  """Returns Markdown: a table per task and group, means ± their standard errors; failures."""
  parts = []
  for table in to_tables(records):
    parts.append(f'## {_heading(table.task, table.group)}\n')
    if table.common:
      parts.append(f'All with {table.common}.\n')
    parts.append(markdown.table(table.titles, table.labels, table.rows))
    parts += [f'{law}.\n' for law in table.laws]
    if table.precision:
      parts.append(f'{table.precision}\n')
    if table.warnings:
      parts.append(''.join(f'- beware: {markdown.one_line(x)}\n' for x in table.warnings))
  if not parts:
    parts.append('No results yet.\n')
  if failures := _failures(records):
    parts.append('## Failures\n')
    parts.append(
      ''.join(
        f'- {failure["what"]}: `{markdown.one_line(failure["error"])}`\n' for failure in failures
      )
    )
  return '\n'.join(parts)


def to_tables(records: Sequence[Record]) -> list[Table]:
  """Returns a table per task and group, with a row per method and point on the axes.

  Rows are in the order of the axes, then of the methods as they first come. Methods that only have
  failed have a row too, without figures.
  """
  return [_table(task, group, part) for (task, group), part in _groups(records).items()]


def _how_it_came_about(starts: Sequence[Origin]) -> str:
  """Returns Markdown: a section of the commands and their circumstances; nothing for none."""
  lines = [f'- {start.circumstances}:\n\n      {start.command}\n' for start in starts]
  return '\n## How it came about\n\n' + '\n'.join(lines) if lines else ''


def page(records: Sequence[Record], title: str, starts: Sequence[Origin]) -> str:
  """Returns the page: tables, pictures and failures, with nothing to fetch.

  Args:
    records: each method, setting and seed once.
    title: of the page.
    starts: of the sweep.
  """
  found = _groups(records)
  sections = []
  revised = [record for record in records if record['name'] != UNREVISED]
  for table in to_tables(records):
    part = found[table.task, table.group]
    unrevised = [r for r in records if r['task'] == table.task and r['name'] == UNREVISED]
    if not any(r['name'] == UNREVISED for r in part):
      part = [*part, *_first_group(unrevised)]  # to compare with, whichever group it was taken in
    across = [r for r in revised if _group(r) == table.group]
    choices = (lib.names(some) for some in (revised, across))  # a method looks the same in these
    shown = next((names for names in choices if len(names) <= looks.MAX_METHODS), None)
    sections.append(
      {
        'heading': _heading(table.task, table.group),
        'table': table,
        'pictures': _pictures(table.task, part, shown),
        'examples': _examples(part),
      }
    )
  environment = traces.environment().overlay(
    loader=jinja2.FileSystemLoader(pathlib.Path(__file__).parent)
  )
  return environment.get_template('page.html').render(
    title=title,
    sections=sections,
    failures=_failures(records),
    starts=starts,
    records=len(records),
    methods=len(lib.names(records)),
    seeds=len(lib.distinct(r.get('seed') for r in records)),
  )


def _table(task: str, group: str, records: Sequence[Record]) -> Table:
  """Returns the table of records of one group."""
  axes, methods = lib.axes(records), lib.names(records)
  metrics = [name for name in _metrics(records) if name != 'exact']  # ≤ says it
  points = {}
  for record in records:
    point = [lib.natural(lib.settings(record).get(axis)) for axis in axes]
    points.setdefault((*point, methods.index(record['name'])), []).append(record)
  rows = []
  for _, tried in sorted(points.items()):
    done = [record for record in tried if not lib.failed(record)]
    means = {name: lib.mean(done, name) for name in metrics}
    settings = lib.settings(tried[0])
    bounded = _BOUNDED if any(lib.metric(record, 'exact') == 0.0 for record in done) else ()
    rows.append(
      [
        tried[0]['name'],
        *(markdown.setting(settings.get(axis)) for axis in axes),
        f'{len(done)}' if len(done) == len(tried) else f'{len(done)} of {len(tried)}',
        *(
          ('≤ ' if name in bounded else '') + _figure(mean, _COLUMNS.get(name, (name, None))[1])
          for name, mean in means.items()
        ),
      ]
    )
  titles = ['method', *axes, 'seeds', *(_COLUMNS.get(name, (name,))[0] for name in metrics)]
  common = markdown.named(lib.common(records))
  laws, precision, warnings = lib.laws(records), _precision(records), _warnings(records)
  return Table(task, group, common, titles, len(axes) + 1, rows, laws, precision, warnings)


def _precision(records: Sequence[Record]) -> str:
  """Returns in which precision the networks computed, and whose if it is not the same for all."""
  by_dtype = {}
  for record in records:
    if dtype := record.get('dtype'):
      by_dtype.setdefault(dtype, []).append(record)
  whose = [
    f'in {dtype}' + (f' ({", ".join(lib.names(part))})' if len(by_dtype) > 1 else '')
    for dtype, part in by_dtype.items()
  ]
  return f'Texts were written by networks that compute {", ".join(whose)}.' if whose else ''


def _warnings(records: Sequence[Record]) -> list[str]:
  """Returns what records are flagged for or were refused, each once, after what it is said of: a
  method, with its place on the axes unless it is said of all its places."""
  axes = lib.axes(records)
  done = [record for record in records if not lib.failed(record)]
  said = {}
  for record in done:
    for sentence in filter(None, (record.get('flag'), record.get('refused'))):
      said.setdefault(_NUMBER.sub('', sentence), []).append((record, sentence))
  found = []
  for pairs in said.values():
    part, sentences = zip(*pairs, strict=True)
    places = []
    for record in part:
      own = [r for r in done if r['name'] == record['name']]
      settings = {} if all(r in part for r in own) else lib.settings(record)
      at = markdown.named({axis: settings.get(axis) for axis in axes})
      places.append(f'{record["name"]} ({at})' if at else record['name'])
    found.append(f'{", ".join(lib.distinct(places))}: {_as_one(sentences)}')
  return found


def _as_one(sentences: Sequence[str]) -> str:
  """Returns the sentence of several that differ in their numbers alone, with ranges for these."""
  columns = zip(*map(_NUMBER.findall, sentences), strict=True)
  ranges = [dict.fromkeys((min(x, key=float), max(x, key=float))) for x in columns]
  words = _NUMBER.split(sentences[0])
  return words[0] + ''.join(
    ' to '.join(ends) + rest for ends, rest in zip(ranges, words[1:], strict=True)
  )


def _pictures(
  task: str, records: Sequence[Record], shown: Sequence[str] | None
) -> list[dict[str, Any]]:
  """Returns the pictures of a group: what they are of, and their data."""
  records = [record for record in records if not lib.failed(record)]
  found = []

  def add(figure: Figure, title: str, part: Sequence[Record], caption: str) -> None:
    common = markdown.named(lib.common(part))
    found.append(
      {
        'title': title,
        'caption': caption + (f' All with {common}.' if common else ''),
        'width': round(100 * figure.get_figwidth()),
        'data': _data_uri(figure),
      }
    )

  if task == 'drafts' and any(record['name'] != UNREVISED for record in records):
    add(
      quality_plots.quality_against_calls(records, shown),
      'Quality against network calls',
      records,
      'Whiskers are standard errors over seeds; the dashed line is the draft as it was.',
    )
  if task == 'refine' and records:
    caption = 'The dashed line is the draft; points of a line are strengths, or calls.'
    add(quality_plots.refinements(records, shown), 'Quality, calls and drift', records, caption)
  if task == 'generation' and records:
    add(
      quality_plots.quality_against_diversity(records, shown),
      'Quality against diversity',
      records,
      'Whiskers are standard errors over seeds; dashed lines are real text; points of a line are '
      'settings, such as temperatures.',
    )
    part = lib.one_setting(records, free=['steps', 'hyperschedule'])
    calls = lib.distinct([r['name'], lib.metric(r, 'calls')] for r in part)
    if len(calls) > len(lib.names(part)):  # some method has taken several numbers of steps
      add(
        quality_plots.generation_against_calls(part, shown),
        'Generation against network calls',
        part,
        'Whiskers are standard errors over seeds; dashed lines are real text.',
      )
  if task in _SCORES and records:
    title, metric, label, panel = _SCORES[task]
    caption = 'Whiskers are standard errors over seeds.'
    add(score_plots.scores(records, metric, label, panel), title, records, caption)
  if task == 'repair' and records:
    part = lib.one_setting(records, free=['corrupted'])
    add(
      revision_plots.bars(part), 'Repair and harm', part, 'Whiskers are standard errors over seeds.'
    )
    part = lib.one_setting(records)
    add(revision_plots.radar(part, shown), 'Repairs, all round', part, 'Further out is better.')
  if part := lib.one_setting([r for r in records if r.get('edit_map')]):
    caption = 'Where in the texts tokens were overwritten, and when.'
    add(revision_plots.edit_map(part, shown), 'Edits by step and position', part, caption)
  if part := lib.one_setting([r for r in records if r.get('signals')]):
    caption = 'Means over positions and texts, of the texts still worked on.'
    add(revision_plots.signals(part, shown), 'Signals over the steps', part, caption)
  return found


def _examples(records: Sequence[Record]) -> list[dict[str, Any]]:
  """Returns texts of each method that keeps some, at the middle one of its settings."""
  found = []
  for name in lib.names(records):
    kept = [r for r in records if r['name'] == name and r.get('examples')]
    if not kept:
      continue
    record = sorted(kept, key=lambda r: lib.metric(r, 'edit_distance') or 0.0)[len(kept) // 2]
    texts = [
      text | {'edits': edits.between(text['draft'], text['text'])} for text in record['examples']
    ]
    found.append({'name': name, 'settings': markdown.named(lib.settings(record)), 'texts': texts})
  return found


def _groups(records: Iterable[Record]) -> dict[tuple[str, str], list[Record]]:
  """Returns the records by task and group, all groups of a task after each other."""
  found = {}
  for record in records:
    found.setdefault((record['task'], _group(record)), []).append(record)
  tasks = lib.distinct(task for task, _ in found)
  return dict(sorted(found.items(), key=lambda item: tasks.index(item[0][0])))


def _group(record: Record) -> str:
  return record.get('group') or ''


def _first_group(records: Sequence[Record]) -> list[Record]:
  """Returns the records that are of the group of the first."""
  return [record for record in records if _group(record) == _group(records[0])]


def _metrics(records: Iterable[Record]) -> list[str]:
  """Returns the names of all metrics, those with a title first."""
  found = lib.distinct(key for record in records for key in record.get('metrics') or {})
  return [key for key in _COLUMNS if key in found] + [key for key in found if key not in _COLUMNS]


def _failures(records: Iterable[Record]) -> list[dict[str, str]]:
  """Returns what failed, and the message."""
  found = []
  for record in filter(lib.failed, records):
    what = [_heading(record['task'], _group(record)), record['name']]
    if record.get('seed') is not None:
      what.append(f'seed {record["seed"]}')
    what.append(markdown.named(lib.settings(record)))
    found.append({'what': ', '.join(filter(None, what)), 'error': str(record['error'])})
  return found


def _heading(task: str, group: str) -> str:
  return f'{task}: {group}' if group else task


def _figure(mean: lib.Mean, digits: int | None) -> str:
  """Returns a mean ± its standard error; with no number of digits, as many as tell."""
  if mean.value is None:
    return ''
  shown, spread = (f'.{digits}f',) * 2 if digits is not None else ('.4g', '.2g')
  value = f'{mean.value:{shown}}'
  return value if mean.error is None else f'{value} ± {mean.error:{spread}}'


def _data_uri(figure: Figure) -> str:
  svg = pictures.to_svg(figure).encode()
  return 'data:image/svg+xml;base64,' + base64.b64encode(svg).decode()
