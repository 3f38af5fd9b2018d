"""Pictures: hyperschedules with their regions, noise, attention masks, and training curves.

Each function returns a Matplotlib Figure that no global state knows of; `to_svg` and
`Figure.savefig` write it.
"""

import io
from collections.abc import Sequence
from typing import Any, NamedTuple

import matplotlib as mpl
import numpy as np
from matplotlib.axes import Axes
from matplotlib.colors import LinearSegmentedColormap, ListedColormap
from matplotlib.figure import Figure
from matplotlib.legend_handler import HandlerTuple
from matplotlib.patches import Patch
from matplotlib.ticker import MaxNLocator

from ardiff_jax.hyperschedules import Hyperschedule, Region

# Told apart without colour too: settled is dark, active light to middling, worthless nearly white.
SETTLED, WORTHLESS, INK, FAINT = '#1f4e79', '#eceef1', '#24292f', '#6b7280'
COLORS = LinearSegmentedColormap.from_list(
  'noise level', ['#fff3c4', '#f6b352', '#d9590f'], under=SETTLED, over=WORTHLESS
)
_NOISING = ListedColormap(['#ffffff', '#c9ced6', '#f6b352'])
_ATTENTION = ListedColormap(['#f4f5f7', SETTLED, '#f6b352'])
MASKED = ''  # stands for a mask where characters are drawn
TRAIN, VALID = '#1f6fb4', '#d9590f'


class MaskPanel(NamedTuple):
  """An attention mask, and what its R rows are.

  Attributes:
    allowed: bool[R, R], query by key.
    in_window: bool[R]; the others are context.
    shown: R labels, the position a row shows.
  """

  allowed: np.ndarray
  in_window: np.ndarray
  shown: Sequence[str]


STYLE = {
  'font.family': 'DejaVu Sans',  # comes with Matplotlib, so pictures look alike everywhere
  'font.size': 8,
  'text.color': INK,
  'axes.edgecolor': '#c3c8cf',
  'axes.labelcolor': INK,
  'axes.linewidth': 0.8,
  'axes.spines.top': False,
  'axes.spines.right': False,
  'axes.grid.axis': 'y',
  'grid.color': '#e7e9ec',
  'grid.linewidth': 0.8,
  'xtick.color': FAINT,
  'ytick.color': FAINT,
  'legend.frameon': False,
  'figure.facecolor': 'white',
  'savefig.facecolor': 'white',
  'lines.solid_capstyle': 'round',
  'svg.hashsalt': 'ardiff_jax',  # the same picture is the same file
}

_MAX_ROWS = 512  # of a picture; longer schedules show as many of their rows, evenly spaced
_MAX_VECTOR_CELLS = 2500  # beyond these, an SVG holds the cells as pixels
_MAX_RULED_CELLS = 40  # along an axis; beyond these, no lines between cells
_SMOOTHED_RECORDS = 40  # from these on, the loss gets a smoothed line


@mpl.rc_context(STYLE)
def hyperschedule(schedule: Hyperschedule) -> Figure:
  """Draws the levels of a schedule: position to the right, generation step downward.

  Row s is the text before step s, row S the finished text. Settled and worthless positions have
  one colour each, active ones that of their noise level, and lines part the regions.
  """
  figure = Figure(figsize=(5.6, 5.0), layout='constrained')
  axes = figure.add_subplot()
  _draw(axes, schedule)
  axes.set_ylabel('generation step')
  _region_legend(figure)
  return figure


@mpl.rc_context(STYLE)
def gallery(schedules: Sequence[Hyperschedule]) -> Figure:
  """Draws schedules side by side on one scale of steps, with one legend; 10 inches wide."""
  figure = Figure(figsize=(10, 3.9), layout='constrained')
  figure.get_layout_engine().set(wspace=0.03, h_pad=0.08)
  panels = figure.subplots(1, len(schedules), sharey=True, squeeze=False)[0]
  for axes, schedule in zip(panels, schedules, strict=True):
    _draw(axes, schedule)
  panels[0].set_ylim(max(s.num_steps for s in schedules) + 0.5, -0.5)
  panels[0].set_ylabel('generation step')
  _region_legend(figure)
  return figure


@mpl.rc_context(STYLE)
def noising(text: str, panels: dict[str, np.ndarray], times: Sequence[float]) -> Figure:
  """Draws a sentence dissolving, character by character, under one process a panel.

  Args:
    text: the clean sentence, L characters.
    panels: title -> str[N, L], the text at each time; MASKED stands for a mask.
    times: N times, from clean to prior.
  """
  clean = np.array(list(text))
  figure = Figure(figsize=(10, 1.0 + 1.62 * ((len(panels) + 1) // 2)), layout='constrained')
  grid = figure.subplots((len(panels) + 1) // 2, 2, squeeze=False).flat
  for axes, (title, rows_NxL) in zip(grid, panels.items(), strict=False):
    state_NxL = np.where(rows_NxL == MASKED, 1, np.where(rows_NxL == clean[None], 0, 2))
    axes.imshow(state_NxL, cmap=_NOISING, vmin=0, vmax=2, aspect='auto')
    for row, column in np.argwhere(rows_NxL != MASKED):
      axes.text(
        *(column, row, rows_NxL[row, column]),
        ha='center',
        va='center_baseline',
        fontsize=7,
        family='DejaVu Sans Mono',
      )
    axes.set_title(title, loc='left', fontsize=9, fontweight='bold')
    axes.set_xticks([])
    axes.set_yticks(range(len(times)), [f't = {t:.2g}' for t in times], fontsize=6)
    axes.tick_params(length=0)
    axes.spines[:].set_visible(False)
  figure.legend(
    [Patch(facecolor=_NOISING(x), edgecolor='#c3c8cf') for x in (0, 1, 2)],
    ['kept', 'masked', 'replaced by a uniform draw'],
    loc='outside lower center',
    ncols=3,
  )
  return figure


@mpl.rc_context(STYLE)
def masks(panels: dict[str, MaskPanel]) -> Figure:
  """Draws who may attend to whom, a panel a mask: queries downward, keys to the right.

  Context rows are blue, rows of a window orange; a cell has the colour of its key, and the numbers
  are the positions that rows show.
  """
  figure = Figure(figsize=(10, 3.4), layout='constrained')
  figure.get_layout_engine().set(wspace=0.04)
  grid = figure.subplots(1, len(panels), squeeze=False)[0]
  for axes, (title, panel) in zip(grid, panels.items(), strict=True):
    count = len(panel.shown)
    cells = np.where(panel.allowed, 1 + panel.in_window[None], 0)
    edges = np.arange(count + 1) - 0.5
    axes.pcolormesh(
      *(edges, edges, cells), cmap=_ATTENTION, vmin=0, vmax=2, edgecolors='white', linewidth=0.4
    )
    axes.set_xlim(-0.5, count - 0.5)
    axes.set_ylim(count - 0.5, -0.5)
    axes.set_aspect('equal')
    for axis, labels in ((axes.xaxis, axes.get_xticklabels), (axes.yaxis, axes.get_yticklabels)):
      axis.set_ticks(range(count), panel.shown, fontsize=4.5 if count > 14 else 6)
      for label, inside in zip(labels(), panel.in_window, strict=True):
        label.set_color(VALID if inside else SETTLED)
    axes.xaxis.tick_top()
    axes.tick_params(length=0, pad=1)
    axes.spines[:].set_visible(False)
    axes.set_title(title, fontsize=9, fontweight='bold')
  figure.legend(
    [Patch(facecolor=_ATTENTION(x)) for x in (1, 2)],
    ['sees context: clean, settled', 'sees its window: noisy, or the last settled token again'],
    loc='outside lower center',
    ncols=2,
  )
  return figure


@mpl.rc_context(STYLE)
def curves(records: Sequence[dict[str, Any]]) -> Figure:
  """Draws the loss and the learning rate over the steps of a run.

  Args:
    records: lines of metrics.jsonl: those of split "train" have "step", "loss" (nats per token)
      and "learning_rate"; those of "valid" "step", "nll_per_token" and "stderr" (nats per
      token), "bits_per_byte" and "kind"; others of "valid" are left out.
  """
  train = [r for r in records if r['split'] == 'train']
  valid = [r for r in records if r['split'] == 'valid' and 'nll_per_token' in r]
  figure = Figure(figsize=(7.6, 4.4), layout='constrained')
  top, bottom = figure.subplots(2, 1, sharex=True, height_ratios=[4, 1])
  if train:
    _draw_loss(top, _column(train, 'step'), _column(train, 'loss'))
    bottom.plot(
      _column(train, 'step'), _column(train, 'learning_rate'), '.-', color=FAINT, markersize=3
    )
  if valid:
    _draw_valid(top, valid)
  top.set_ylabel('nats per token')
  top.grid(True)
  if records:
    top.legend(loc='upper right')
  else:
    top.text(0.5, 0.5, 'no records yet', transform=top.transAxes, ha='center', color=FAINT)
  bottom.set_ylabel('learning rate')
  bottom.set_ylim(bottom=0)
  bottom.ticklabel_format(axis='y', scilimits=(-2, 2))
  bottom.set_xlabel('training step')
  bottom.set_xlim(left=0)
  bottom.xaxis.set_major_locator(MaxNLocator(integer=True, min_n_ticks=1))
  figure.align_ylabels()
  return figure


def to_svg(figure: Figure) -> str:
  """Returns the figure as an SVG document, the same for the same figure whenever it is made."""
  file = io.StringIO()
  unstamped = dict.fromkeys(('Date', 'Creator', 'Format', 'Type'))
  with mpl.rc_context(STYLE):
    figure.savefig(file, format='svg', metadata=unstamped)
  return file.getvalue()


def _draw(axes: Axes, schedule: Hyperschedule) -> None:
  """Draws one schedule: a mesh of cells, and the lines between regions."""
  steps_R = np.unique(np.linspace(0, schedule.num_steps, _MAX_ROWS).round().astype(int))
  levels_RxL = np.asarray(schedule.levels)[steps_R]
  regions_RxL = np.full(levels_RxL.shape, Region.SETTLED, np.int8)  # row S is settled
  regions_RxL[:-1] = schedule.regions(steps_R[:-1])

  x = np.arange(schedule.length + 1) - 0.5
  y = np.concatenate([[-0.5], (steps_R[1:] + steps_R[:-1]) / 2, [schedule.num_steps + 0.5]])
  ruled = max(levels_RxL.shape) <= _MAX_RULED_CELLS
  axes.pcolormesh(
    *(x, y, levels_RxL + (regions_RxL == Region.WORTHLESS)),  # 0 settled, 1..T active, T+1
    cmap=COLORS,
    vmin=0.5,
    vmax=schedule.num_levels,
    edgecolors='white' if ruled else 'none',
    linewidth=0.5,
    rasterized=levels_RxL.size > _MAX_VECTOR_CELLS,
  )
  axes.plot(*_boundaries(regions_RxL, x, y), color=INK, linewidth=1.1 if ruled else 0.7)
  axes.set_xlim(x[0], x[-1])
  axes.set_ylim(y[-1], y[0])

  kind, _, parameters = schedule.name.partition('(')
  axes.set_title(kind, fontsize=10, fontweight='bold', pad=19)
  axes.annotate(
    parameters.replace(')', ''),
    *((0.5, 1), (0, 5)),
    xycoords='axes fraction',
    textcoords='offset points',
    ha='center',
    fontsize=7,
    color=FAINT,
  )
  axes.set_xlabel('position')
  axes.spines[:].set_visible(False)
  axes.tick_params(length=0)
  for axis in (axes.xaxis, axes.yaxis):
    axis.set_major_locator(MaxNLocator(nbins=5, integer=True, min_n_ticks=1))


def _boundaries(
  regions_RxL: np.ndarray, x: np.ndarray, y: np.ndarray
) -> tuple[np.ndarray, np.ndarray]:
  """Returns float[3·N] x and y of the N cell sides that part two regions, NaN between sides."""
  row, column = np.nonzero(regions_RxL[:, 1:] != regions_RxL[:, :-1])
  upright = (x[column + 1], x[column + 1]), (y[row], y[row + 1])
  row, column = np.nonzero(regions_RxL[1:] != regions_RxL[:-1])
  level = (x[column], x[column + 1]), (y[row + 1], y[row + 1])
  ends_2x2xN = np.concatenate([upright, level], axis=2)
  return tuple(np.insert(ends_2x2xN, 2, np.nan, axis=1).transpose(0, 2, 1).reshape(2, -1))


def _region_legend(figure: Figure) -> None:
  shades = tuple(Patch(facecolor=COLORS(x)) for x in np.linspace(1, 0.1, 7))
  figure.legend(
    [Patch(facecolor=WORTHLESS), shades, Patch(facecolor=SETTLED)],
    ['worthless: not started', 'active: noise level, high to low', 'settled: final'],
    loc='outside lower center',
    ncols=3,
    handlelength=2.4,
    handler_map={tuple: HandlerTuple(ndivide=None, pad=0)},
  )


def _column(records: Sequence[dict[str, Any]], name: str) -> np.ndarray:
  return np.array([record[name] for record in records], float)


def _draw_loss(axes: Axes, steps: np.ndarray, loss: np.ndarray) -> None:
  if len(steps) < _SMOOTHED_RECORDS:
    axes.plot(steps, loss, '.-', color=TRAIN, linewidth=1.4, label='training loss')
    return
  window = np.ones(len(steps) // 10)
  smooth = np.convolve(loss, window, 'same') / np.convolve(np.ones_like(loss), window, 'same')
  axes.plot(steps, loss, color=TRAIN, alpha=0.3, linewidth=0.8)
  axes.plot(steps, smooth, color=TRAIN, linewidth=1.6, label='training loss, smoothed')


def _draw_valid(axes: Axes, valid: Sequence[dict[str, Any]]) -> None:
  last = valid[-1]
  end = f'{last["nll_per_token"]:.3f} nats per token'
  if 'bits_per_byte' in last:  # not of tokens that a guidance foretells
    end = f'{last["bits_per_byte"]:.3f} bits per byte'
  axes.errorbar(
    *(_column(valid, name) for name in ('step', 'nll_per_token', 'stderr')),
    fmt='o-',
    color=VALID,
    linewidth=1.4,
    markersize=4,
    capsize=2.5,
    label=f'validation, {last["kind"]} ± standard error: {end} at the end',
  )
