"""Pictures of a sweep: where, when and why methods edit, and how well they repair.

Each function returns a Matplotlib Figure that no global state knows of; `plots.to_svg` writes it.
Failed records are left out, and figures are means over seeds. Of `shown` see `looks`.
"""

import itertools
from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.colors import LinearSegmentedColormap
from matplotlib.figure import Figure
from matplotlib.patches import Patch
from matplotlib.patheffects import withStroke
from matplotlib.ticker import FixedLocator, MaxNLocator, PercentFormatter

from ardiff_jax.ablation import records as lib
from ardiff_jax.ablation.looks import cut, handle, looks_of, say_empty
from ardiff_jax.ablation.records import Record
from ardiff_jax.plots import FAINT, INK, SETTLED, STYLE, TRAIN

_EDITS = LinearSegmentedColormap.from_list('edits', ['#f4f5f7', '#f6b352', '#d9590f', '#5a1d02'])
_LEVELS = LinearSegmentedColormap.from_list('corrupted', ['#9cc5e8', TRAIN, SETTLED])
_SIGNALS = {  # panel of each: title, what is on its axis
  'entropy': ('entropy', 'nats'),
  'margin': ('margin of the best token', 'logits'),
  'change': ('change of the last guess', 'nats'),
  'surprise': ('surprise at the token there', 'nats'),
  'doubt': ('doubt', 'probability'),
}
_SPOKES = {  # of the radar; more is better everywhere
  'fixed': 'fixed',
  'harmed': '1 − harmed',
  'precision': 'precision',
  'recall': 'recall',
  'f1': 'F1',
  'auc': 'AUC',
}

_MAX_VECTOR_CELLS = 2500  # of all maps; beyond these, an SVG holds the cells as pixels


@mpl.rc_context(STYLE)
def edit_map(records: Sequence[Record], shown: Sequence[str] | None = None) -> Figure:
  """Draws where methods edit and when: position to the right, step downward, a panel a method.

  Args:
    records: of one setting, with 'edit_map', float[S, N]: the share of texts edited at each of S
      steps in each of N stretches of the text. Of one method, they count if they have as many
      steps and stretches as the first.
    shown: methods, see `looks`.

  Raises:
    ValueError: `shown` has too many.
  """
  records = [r for r in records if r.get('edit_map') and not lib.failed(r)]
  looks, title = looks_of(records, shown)
  maps = {name: _mean_map([r for r in records if r['name'] == name]) for name in looks}
  columns = min(4, max(1, len(maps)))
  rows = max(1, -(-len(maps) // columns))
  size = max(4.4, 0.8 + 2.3 * columns), 0.7 + 2.3 * rows
  figure = Figure(figsize=size, dpi=200, layout='constrained')
  figure.get_layout_engine().set(wspace=0.03, hspace=0.06)
  grid = figure.subplots(rows, columns, sharey=True, squeeze=False)
  most = max((np.nanmax(x, initial=0.0) for x in maps.values()), default=0.0) or 1.0
  steps = max((len(x) for x in maps.values()), default=1)
  for axes, (name, map_SxN) in zip(grid.flat, maps.items(), strict=False):
    mesh = axes.pcolormesh(
      np.linspace(0.0, 1.0, map_SxN.shape[1] + 1),
      np.arange(len(map_SxN) + 1) + 0.5,
      map_SxN,
      cmap=_EDITS,
      vmin=0.0,
      vmax=most,
      edgecolors='face',  # no light seams between cells
      linewidth=0.2,
      rasterized=sum(x.size for x in maps.values()) > _MAX_VECTOR_CELLS,
    )
    axes.set_title(cut(name, 28), fontsize=8, fontweight='bold')
  grid[0, 0].set_ylim(steps + 0.5, 0.5)
  grid[0, 0].yaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
  for number, axes in enumerate(grid.flat):
    axes.spines[:].set_visible(False)
    axes.tick_params(length=0)
    axes.xaxis.set_major_formatter(PercentFormatter(1.0))
    axes.xaxis.set_major_locator(FixedLocator([0.0, 0.5, 1.0]))
    axes.set_xlim(0.0, 1.0)
    for label, side in zip(axes.get_xticklabels(), ('left', 'center', 'right'), strict=True):
      label.set_ha(side)  # 100% of one panel would touch 0% of the next
    if number >= len(maps) > 0:
      axes.remove()
  for axes in grid[:, 0]:
    axes.set_ylabel('step')
  if maps:
    figure.supxlabel('position in the text', fontsize=8)
    bar = figure.colorbar(mesh, ax=figure.axes, shrink=0.8, pad=0.02, aspect=25)
    bar.set_label('share of texts edited there')
    bar.outline.set_visible(False)
  else:
    say_empty(grid[0, 0])
  if title:
    figure.suptitle(title, fontsize=8, color=FAINT, x=0.01, ha='left')
  return figure


@mpl.rc_context(STYLE)
def signals(records: Sequence[Record], shown: Sequence[str] | None = None) -> Figure:
  """Draws how what a gate sees, and the doubt made of it, go over the steps: a panel a signal.

  A line is a mean over positions and texts; its band is a standard deviation to either side.

  Args:
    records: of one setting, with 'signals': float[S] by name, 'entropy_mean', 'entropy_std' and so
      on, and 'live', the texts still being worked on; steps without any are left out.
    shown: methods, see `looks`.

  Raises:
    ValueError: `shown` has too many.
  """
  records = [r for r in records if r.get('signals') and not lib.failed(r)]
  looks, title = looks_of(records, shown)
  figure = Figure(figsize=(10.0, 5.0), layout='constrained')
  figure.get_layout_engine().set(wspace=0.04, hspace=0.06)
  *panels, corner = figure.subplots(2, 3).flat
  alpha = max(0.06, 0.2 / max(1, len(looks)))  # bands of many methods cover each other
  for axes, (signal, (heading, unit)) in zip(panels, _SIGNALS.items(), strict=True):
    for name, look in looks.items():
      here = [r['signals'] for r in records if r['name'] == name]
      steps, center, spread = _course(here, signal)
      axes.fill_between(
        *(steps, center - spread, center + spread), color=look.color, alpha=alpha, linewidth=0
      )
      axes.plot(
        *(steps, center, look.marker + '-'),
        color=look.color,
        markersize=4,
        markeredgewidth=0,
        linewidth=1.4,
        markevery=max(1, len(steps) // 8),
        label=name,
      )
    axes.set_title(heading, fontsize=9, fontweight='bold')
    axes.set_ylabel(unit)
    axes.set_xlabel('step')
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.margins(x=0.04)
    axes.xaxis.set_major_locator(MaxNLocator(nbins=8, integer=True, min_n_ticks=1))
  corner.set_axis_off()
  handles = [handle(look, name) for name, look in looks.items()]
  note = Patch(facecolor=FAINT, alpha=0.3, label='± standard deviation')
  corner.legend(
    handles=[*handles, note],
    loc='center left',
    title=title,
    alignment='left',
    labelspacing=0.8,
  )
  if not looks:
    say_empty(panels[0])
  return figure


@mpl.rc_context(STYLE)
def radar(records: Sequence[Record], shown: Sequence[str] | None = None) -> Figure:
  """Draws the figures of repairs as one polygon a method; further out is better everywhere.

  Args:
    records: of task 'repair' and one share of corrupted tokens; others are left out.
    shown: methods, see `looks`.

  Raises:
    ValueError: `shown` has too many, or there are several shares.
  """
  records = [r for r in records if r['task'] == 'repair' and not lib.failed(r)]
  levels = lib.distinct(lib.settings(r).get('corrupted') for r in records)
  levels = [level for level in levels if level is not None]
  if len(levels) > 1:
    raise ValueError(f'a radar is of one share of corrupted tokens, got {levels}')
  looks, title = looks_of(records, shown)
  width = max((len(cut(name)) for name in looks), default=0) * 0.07  # of the legend, inches
  figure = Figure(figsize=(5.7 + width, 4.4), layout='constrained')
  axes = figure.add_subplot(projection='polar')
  angles = np.linspace(0.0, 2 * np.pi, len(_SPOKES), endpoint=False)
  for name, look in looks.items():
    here = [r for r in records if r['name'] == name]
    means = np.array([lib.mean(here, metric).value for metric in _SPOKES], float)
    values = np.where([metric == 'harmed' for metric in _SPOKES], 1.0 - means, means)
    around = [*range(len(angles)), 0]
    axes.plot(
      *(angles[around], values[around], look.marker + '-'),
      color=look.color,
      markersize=4.5,
      markeredgewidth=0,
      linewidth=1.4,
      label=name,
      clip_on=False,
    )
  axes.set_theta_zero_location('N')
  axes.set_theta_direction(-1)
  axes.set_thetagrids(np.degrees(angles), _SPOKES.values(), fontsize=8.5)
  for label, angle in zip(axes.get_xticklabels(), angles, strict=True):
    sine = np.sin(angle)
    label.set_ha('center' if abs(sine) < 0.1 else 'left' if sine > 0.0 else 'right')
  axes.tick_params(axis='x', labelcolor=INK)
  axes.set_ylim(0.0, 1.0)
  axes.set_rgrids([0.25, 0.5, 0.75, 1.0], [''] * 4)
  for radius in (0.5, 1.0):
    text = axes.text(angles[1] / 2, radius, f'{radius:g}', fontsize=7, color=FAINT, ha='center')
    text.set_path_effects([withStroke(linewidth=2, foreground='white')])
  axes.grid(True, axis='both')
  axes.spines['polar'].set_visible(False)
  handles = [handle(look, name) for name, look in looks.items()]
  if handles:
    figure.legend(
      handles=handles,
      loc='outside center right',
      title=title,
      alignment='left',
      labelspacing=0.8,
    )
  else:
    say_empty(axes)
  return figure


@mpl.rc_context(STYLE)
def bars(records: Sequence[Record]) -> Figure:
  """Draws F1 and harm of repairs, a bar a share of corrupted tokens, with standard errors.

  Args:
    records: of task 'repair', at one point of the other axes; others are left out. All methods are
      shown.
  """
  records = [r for r in records if r['task'] == 'repair' and not lib.failed(r)]
  methods = lib.names(records)
  levels = lib.distinct(lib.settings(r).get('corrupted') for r in records)
  levels.sort(key=lib.natural)
  shades = [_LEVELS(x) for x in np.linspace(0.0, 1.0, len(levels))] if levels[1:] else [TRAIN]
  thickness = 0.8 / max(1, len(levels))
  per_method = max(0.3, 0.12 * len(levels) + 0.1)
  figure = Figure(figsize=(10.0, 1.1 + per_method * max(1, len(methods))), layout='constrained')
  figure.get_layout_engine().set(wspace=0.05)
  panels = figure.subplots(1, 2, sharey=True)
  for axes, (metric, label) in zip(
    panels,
    {'f1': 'F1 of the repair (more is better)', 'harmed': 'harmed (less is better)'}.items(),
    strict=True,
  ):
    for number, (level, shade) in enumerate(zip(levels, shades, strict=False)):
      means = [
        lib.mean(
          [r for r in records if (r['name'], lib.settings(r).get('corrupted')) == (name, level)],
          metric,
        )
        for name in methods
      ]
      axes.barh(
        np.arange(len(methods)) + (number - (len(levels) - 1) / 2) * thickness,
        np.array([mean.value for mean in means], float),
        thickness * 0.92,
        xerr=np.array([mean.error for mean in means], float),
        color=shade,
        error_kw={'ecolor': INK, 'elinewidth': 0.8, 'capsize': 1.8, 'capthick': 0.8},
        label=_share(level),
      )
    axes.set_xlabel(label)
    axes.set_xlim(left=0.0)
    axes.grid(True, axis='x')
    axes.set_axisbelow(True)
    axes.tick_params(axis='y', length=0)
    axes.spines['left'].set_visible(False)
  panels[0].set_yticks(range(len(methods)), map(cut, methods), color=INK)
  panels[0].set_ylim(max(1, len(methods)) - 0.5, -0.5)
  if methods:
    handles = [
      Patch(facecolor=shade, label=_share(level))
      for level, shade in zip(levels, shades, strict=False)
    ]
    figure.legend(handles=handles, loc='outside upper left', ncols=6, title=None)
  else:
    say_empty(panels[0])
  return figure


def _mean_map(records: Sequence[Record]) -> np.ndarray:
  """Returns float[S, N], the mean over the records that are like the first."""
  maps = [np.array(record['edit_map'], float) for record in records]
  return np.mean([x for x in maps if x.shape == maps[0].shape], axis=0)


def _course(
  signals: Sequence[dict[str, Sequence[float | None]]], signal: str
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
  """Returns the steps at which a signal means anything, its mean and its deviation, over seeds."""
  found = []
  for part in ('mean', 'std'):
    rows = [_live(record, f'{signal}_{part}') for record in signals]
    columns = list(itertools.zip_longest(*rows, fillvalue=np.nan))
    rows_NxS = np.array(columns, float).reshape(-1, len(rows)).T
    count_S = np.isfinite(rows_NxS).sum(axis=0)
    total_S = np.where(np.isfinite(rows_NxS), rows_NxS, 0.0).sum(axis=0)
    found.append(np.where(count_S > 0, total_S / np.maximum(count_S, 1), np.nan))
  center, spread = found
  if len(spread) < len(center):  # there is none
    spread = np.full(len(center), np.nan)
  live = np.isfinite(center)
  return np.flatnonzero(live) + 1, center[live], spread[: len(live)][live]


def _live(record: dict[str, Sequence[float | None]], name: str) -> np.ndarray:
  """Returns float[S], NaN at steps at which no text was worked on."""
  values = np.array(record.get(name) or [], float)
  live = np.array(record.get('live') or np.ones(len(values)), float)[: len(values)]
  return np.where(live > 0.0, values, np.nan)


def _share(level: float | None) -> str:
  return f'{100 * level:g}% corrupted' if isinstance(level, int | float) else 'any share corrupted'
