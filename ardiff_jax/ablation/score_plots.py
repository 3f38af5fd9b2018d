"""Pictures of a sweep: one figure of every method, a panel a text, an order or a file.

Each function returns a Matplotlib Figure that no global state knows of; `plots.to_svg` writes it.
Failed records are left out, and figures are means over seeds.
"""

from collections.abc import Sequence

import matplotlib as mpl
import numpy as np
from matplotlib.figure import Figure
from matplotlib.lines import Line2D
from matplotlib.ticker import MaxNLocator

from ardiff_jax.ablation import markdown
from ardiff_jax.ablation import records as lib
from ardiff_jax.ablation.looks import cut, say_empty
from ardiff_jax.ablation.records import Record
from ardiff_jax.plots import INK, STYLE, TRAIN

_POINT = {'fmt': 'o', 'color': TRAIN, 'markersize': 5.5, 'elinewidth': 0.9, 'capsize': 2.5}
_BOUND = {'markerfacecolor': 'white'}


@mpl.rc_context(STYLE)
def scores(records: Sequence[Record], metric: str, label: str, panel: str) -> Figure:
  """Draws a figure of each method, with its standard error, and guessing as a dashed line.

  A line of points a method, with what else it was tried with. Upper bounds are hollow.

  Args:
    records: of one task and group.
    metric: to the right.
    label: of its axis.
    panel: setting with a panel for each of its values.
  """
  records = [record for record in records if not lib.failed(record)]
  kinds = lib.distinct(lib.settings(record).get(panel) for record in records)
  axes_of_sweep = [axis for axis in lib.axes(records) if axis != panel]
  rows = {}
  for record in records:
    settings = lib.settings(record)
    varied = markdown.named({axis: settings.get(axis) for axis in axes_of_sweep})
    title = f'{record["name"]}, {varied}' if varied else record['name']
    rows.setdefault(title, []).append(record)
  size = 2.2 + 1.9 * max(1, len(kinds)), 1.5 + 0.28 * max(1, len(rows))
  figure = Figure(figsize=size, layout='constrained')
  panels = figure.subplots(1, max(1, len(kinds)), sharey=True, squeeze=False)[0]
  bounds, guessed = set(), False
  for axes, kind in zip(panels, kinds, strict=False):
    here = [record for record in records if lib.settings(record).get(panel) == kind]
    for place, part in enumerate(rows.values()):
      part = [record for record in part if lib.settings(record).get(panel) == kind]
      value, error = lib.mean(part, metric)
      if value is not None:
        is_bound = any(lib.metric(record, 'exact') == 0.0 for record in part)
        bounds.add(is_bound)
        axes.errorbar(value, place, xerr=error, **_POINT, **(_BOUND if is_bound else {}))
    if (chance := lib.mean(here, 'chance').value) is not None:
      axes.axvline(chance, color=INK, linestyle='--', linewidth=1.2, zorder=1)
      guessed = True
    axes.set_title(_said(panel, kind), fontsize=9, fontweight='bold')
    axes.xaxis.set_major_locator(MaxNLocator(4))
    axes.margins(x=0.12)
    axes.grid(True)
    axes.set_axisbelow(True)
    axes.tick_params(axis='y', length=0)
  panels[0].set_yticks(np.arange(len(rows)), map(cut, rows), color=INK)
  panels[0].set_ylim(max(1, len(rows)) - 0.5, -0.5)
  if kinds:
    figure.supxlabel(label, fontsize=9)
  else:
    say_empty(panels[0])
  point = {'color': TRAIN, 'marker': 'o', 'linestyle': 'none', 'markersize': 5.5}
  handles = []
  if True in bounds:
    handles.append(Line2D([], [], **point, **_BOUND, label='upper bound'))
    if False in bounds:
      handles.append(Line2D([], [], **point, label='exact'))
  if guessed:
    handles.append(Line2D([], [], color=INK, linestyle='--', linewidth=1.2, label='guessing'))
  if handles:
    figure.legend(handles=handles, loc='outside upper left', ncols=3)
  return figure


def _said(panel: str, kind: str | float | None) -> str:
  """Returns the title of a panel: the name of a text, file or order, else with what it is."""
  if panel == 'order':
    return cut(kind or 'own order')
  if panel in ('data', 'file'):
    return cut(str(kind).rsplit('/', 1)[-1])
  return markdown.named({panel: kind}) or f'own {panel}'
