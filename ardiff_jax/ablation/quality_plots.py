"""Pictures of a sweep: what a judge thinks of texts, against calls, drift and diversity.

Each function returns a Matplotlib Figure that no global state knows of; `plots.to_svg` writes it.
Failed records are left out, and figures are means over seeds. Of `shown` see `looks`.
"""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import FixedLocator, FuncFormatter, LogLocator, NullLocator

from ardiff_jax.ablation import records as lib
from ardiff_jax.ablation.looks import Look, handle, legend, looks_of, say_empty
from ardiff_jax.ablation.records import UNREVISED, Record
from ardiff_jax.plots import INK, STYLE

_AXES = {  # of refinements
  'calls': 'network calls, those of the draft included',
  'edit_distance': 'edit distance from the draft',
  'judge_nats': 'judge, nats per token (less is better)',
  'success': 'share of texts that are as asked',
  'fixed': 'share of wrong tokens that are mended',
}
_DASHED = {'color': INK, 'linestyle': '--', 'linewidth': 1.2}  # what methods are held against


@mpl.rc_context(STYLE)
def quality_against_calls(records: Sequence[Record], shown: Sequence[str] | None = None) -> Figure:
  """Draws what a judge thinks of drafts, and their entropy, against what revising them costs.

  A column a kind of draft; a point a method and its settings, joined along the calls. The draft
  itself, 'no revision', is a dashed line across, with its standard error.

  Args:
    records: of task 'drafts', with 'draft' among the settings; others are left out.
    shown: methods, see `looks`.

  Raises:
    ValueError: `shown` has too many.
  """
  records = [r for r in records if r['task'] == 'drafts' and not lib.failed(r)]
  drafts = lib.distinct(lib.settings(r).get('draft') for r in records)
  looks, title = looks_of([r for r in records if r['name'] != UNREVISED], shown)
  figure = Figure(figsize=(max(5.4, 1.0 + 3.2 * len(drafts)), 5.6), layout='constrained')
  figure.get_layout_engine().set(wspace=0.05, hspace=0.05)
  grid = figure.subplots(2, max(1, len(drafts)), sharex='col', squeeze=False)
  for column, draft in enumerate(drafts):
    here = [r for r in records if lib.settings(r).get('draft') == draft]
    for axes, metric in zip(grid[:, column], ('judge_nats', 'entropy'), strict=True):
      _draw_quality(axes, here, metric, looks)
    _octaves(grid[0, column], [x for r in here if (x := lib.metric(r, 'calls'))])
    kind = 'draft' if draft is None else f'draft: {draft}'
    grid[0, column].set_title(kind, fontsize=9, fontweight='bold')
    grid[1, column].set_xlabel('network calls per text, after the draft')
  grid[0, 0].set_ylabel('judge, nats per token (less is better)')
  grid[1, 0].set_ylabel('entropy of the tokens, nats')
  if not drafts:
    say_empty(grid[0, 0])
  handles = [handle(look, name) for name, look in looks.items()]
  if any(r['name'] == UNREVISED for r in records):
    handles.append(Line2D([], [], **_DASHED, label=UNREVISED))
  legend(figure, handles, title)
  figure.align_ylabels()
  return figure


@mpl.rc_context(STYLE)
def refinements(records: Sequence[Record], shown: Sequence[str] | None = None) -> Figure:
  """Draws what a judge thinks of refined drafts against their calls and their drift, and how many
  are as they were asked to be, or how much of what was wrong is mended, against the drift.

  A point a method and its settings, a strength say; the dashed line is the draft.

  Args:
    records: of task 'refine', of one group; others are left out.
    shown: methods, see `looks`.

  Raises:
    ValueError: `shown` has too many.
  """
  records = [r for r in records if r['task'] == 'refine' and not lib.failed(r)]
  looks, title = looks_of(records, shown)
  aims = [name for name in ('success', 'fixed') if any(lib.metric(r, name) for r in records)]
  panels = [('calls', 'judge_nats'), ('edit_distance', 'judge_nats')]
  panels += [('edit_distance', aim) for aim in aims[:1]]
  figure = Figure(figsize=(3.6 * len(panels), 3.4), layout='constrained')
  for axes, (across, metric) in zip(
    figure.subplots(1, len(panels), squeeze=False)[0], panels, strict=True
  ):
    _draw_quality(axes, records, metric, looks, across)
    axes.set_xlabel(_AXES[across])
    axes.set_ylabel(_AXES[metric])
    draft = lib.mean(records, 'draft_nats').value if metric == 'judge_nats' else None
    if draft is not None:
      axes.axhline(draft, **_DASHED, zorder=1)
  legend(figure, [handle(look, name) for name, look in looks.items()], title)
  return figure


@mpl.rc_context(STYLE)
def quality_against_diversity(
  records: Sequence[Record], shown: Sequence[str] | None = None
) -> Figure:
  """Draws what a judge thinks of texts written from nothing, and MAUVE, against their entropy.

  A point a method and its settings, a temperature say, joined in the order of the settings. Dashed
  lines are real text. Perplexities are of the mean nats over seeds, as their intervals are.

  Args:
    records: of task 'generation', of one group; others are left out.
    shown: methods, see `looks`.

  Raises:
    ValueError: `shown` has too many.
  """
  records = [r for r in records if r['task'] == 'generation' and not lib.failed(r)]
  looks, title = looks_of(records, shown)
  handles = [handle(look, name) for name, look in looks.items()]
  along, real = lib.axes(records), lib.mean(records, 'real_entropy').value
  figure = Figure(figsize=(7.6, 3.6), layout='constrained')
  figure.get_layout_engine().set(wspace=0.05)
  left, right = figure.subplots(1, 2, sharex=True)
  for axes, metric, label, missing in (
    (left, 'judge_nats', 'judge perplexity (less is better)', 'no judge read the texts'),
    (right, 'mauve', 'MAUVE (more is better)', 'MAUVE was not computed'),
  ):
    _draw_quality(axes, records, metric, looks, 'entropy', along, as_perplexity=axes is left)
    axes.set_xlabel("entropy of a text's tokens, nats")
    axes.set_ylabel(label)
    if real is not None:
      axes.axvline(real, **_DASHED, zorder=1)
    if not axes.containers:
      say_empty(axes, missing if looks else 'no records yet')
  _perplexities(left)
  right.set_ylim(-0.03, 1.03)
  best = lib.mean(records, 'mauve_real').value
  if best is not None:
    right.axhline(best, **_DASHED, zorder=1)
  if real is not None or best is not None:
    handles.append(Line2D([], [], **_DASHED, label='real text'))
  legend(figure, handles, title)
  return figure


@mpl.rc_context(STYLE)
def generation_against_calls(
  records: Sequence[Record], shown: Sequence[str] | None = None
) -> Figure:
  """Draws what a judge thinks of texts written from nothing, and their entropy, against calls.

  A point a method and its number of steps, joined along the calls. Dashed lines are real text.

  Args:
    records: of task 'generation', at one point of the axes that make no calls; others are left out.
    shown: methods, see `looks`.

  Raises:
    ValueError: `shown` has too many.
  """
  records = [r for r in records if r['task'] == 'generation' and not lib.failed(r)]
  looks, title = looks_of(records, shown)
  handles = [handle(look, name) for name, look in looks.items()]
  figure = Figure(figsize=(7.6, 3.6), layout='constrained')
  figure.get_layout_engine().set(wspace=0.05)
  panels = figure.subplots(1, 2, sharex=True)
  known = []
  for axes, metric, real, label in (
    (panels[0], 'judge_nats', 'real_judge_nats', 'judge, nats per token (less is better)'),
    (panels[1], 'entropy', 'real_entropy', "entropy of a text's tokens, nats"),
  ):
    _draw_quality(axes, records, metric, looks)
    axes.set_xlabel('network calls per text')
    axes.set_ylabel(label)
    known.append(lib.mean(records, real).value)
    if known[-1] is not None:
      axes.axhline(known[-1], **_DASHED, zorder=1)
  if records:
    _octaves(panels[0], [x for r in records if (x := lib.metric(r, 'calls'))])
  else:
    say_empty(panels[0])
  if any(x is not None for x in known):
    handles.append(Line2D([], [], **_DASHED, label='real text'))
  legend(figure, handles, title)
  return figure


def _draw_quality(
  axes: Axes,
  records: Sequence[Record],
  metric: str,
  looks: dict[str, Look],
  across: str = 'calls',
  along: Sequence[str] = (),
  as_perplexity: bool = False,
) -> None:
  """Draws one figure against another: a line a method, and the draft across.

  Args:
    axes: drawn on.
    records: those of methods without a look are left out.
    metric: upward.
    looks: of the methods.
    across: metric to the right.
    along: settings by whose values the points of a line are joined; else they are from left to
      right.
    as_perplexity: the metric is in nats; its exponential is drawn.
  """
  for name, look in looks.items():
    points = {}
    for record in records:
      if record['name'] == name:
        points.setdefault(lib.identity(lib.settings(record)), []).append(record)
    means = []
    for point in points.values():
      x, y = lib.mean(point, across), lib.mean(point, metric)
      if x.value is not None and y.value is not None:
        settings = lib.settings(point[0])
        means.append(([lib.natural(settings.get(key)) for key in along], x, y))
    means.sort(key=lambda mean: (mean[0], mean[1].value))
    if not means:
      continue
    (x, xerr), (y, yerr) = (np.array([mean[i] for mean in means], float).T for i in (1, 2))
    if as_perplexity:
      y, yerr = np.exp(y), (np.exp(y) - np.exp(y - yerr), np.exp(y + yerr) - np.exp(y))
    axes.errorbar(
      *(x, y, yerr, xerr),
      fmt=look.marker + '-',
      color=look.color,
      linewidth=1.4,
      markersize=5,
      markeredgewidth=0,
      elinewidth=0.9,
      capsize=2.5,
      capthick=0.9,
      label=name,
    )
  value, error = lib.mean([r for r in records if r['name'] == UNREVISED], metric)
  if value is not None:
    axes.axhline(value, **_DASHED, label=UNREVISED, zorder=1)
    if error is not None:
      axes.axhspan(value - error, value + error, color=INK, alpha=0.08, linewidth=0, zorder=0)
  axes.grid(True)
  axes.margins(y=0.12)


def _perplexities(axes: Axes) -> None:
  """Makes the axis upward a logarithmic one, with figures however little of it there is."""
  axes.set_yscale('log')
  axes.yaxis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
  axes.yaxis.set_minor_locator(NullLocator())
  axes.yaxis.set_major_formatter(FuncFormatter(lambda y, _: f'{y:g}'))


def _octaves(axes: Axes, calls: Sequence[float]) -> None:
  """Makes the axis one of powers of two around the calls."""
  axes.set_xscale('log', base=2)
  low = np.floor(np.log2(min(calls, default=1.0)) - 0.05)
  high = np.ceil(np.log2(max(calls, default=1.0)) + 0.05)
  every = max(1, int(high - low) // 6)
  axes.set_xlim(2.0**low, 2.0**high)
  axes.xaxis.set_major_locator(FixedLocator(2.0 ** np.arange(low, high + 1, every)))
  axes.xaxis.set_minor_locator(NullLocator())
  axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f'{x:g}'))
