"""How methods look in the pictures of a sweep, and what else these share.

Methods have a colour and a marker each, for which reason pictures hold eight of them: the first, or
those that `shown` names. The place in `shown` makes the look, so that pictures with the same
`shown` agree.
"""

from collections.abc import Sequence
from typing import NamedTuple

from matplotlib.axes import Axes
from matplotlib.figure import Figure
from matplotlib.lines import Line2D

from ardiff_jax.ablation import records as lib
from ardiff_jax.ablation.records import Record
from ardiff_jax.plots import FAINT, INK, TRAIN, VALID

MAX_METHODS = 8


class Look(NamedTuple):
  """How a method is drawn."""

  color: str
  marker: str


# Differ under all three kinds of colour blindness, by a ΔE of 18 or more; the markers differ too.
LOOKS = tuple(
  map(
    Look,
    (TRAIN, VALID, '#2f9e5b', '#cc79a7', '#f0b400', '#6ec1ee', INK, '#7b1e7a'),
    ('o', 's', '^', 'D', 'v', 'P', 'X', '<'),
  )
)


def looks_of(
  records: Sequence[Record], shown: Sequence[str] | None
) -> tuple[dict[str, Look], str | None]:
  """Returns how to draw each method that is shown, and how many of how many, if not all are.

  Raises:
    ValueError: `shown` has too many.
  """
  methods = lib.names(records)
  shown = methods[:MAX_METHODS] if shown is None else lib.distinct(shown)
  if len(shown) > MAX_METHODS:
    raise ValueError(f'shown has {len(shown)} methods, a picture holds {MAX_METHODS}')
  looks = dict(zip(shown, LOOKS, strict=False))
  looks = {name: look for name, look in looks.items() if name in methods}
  hidden = len(methods) - len(looks)
  return looks, f'{len(looks)} of {len(methods)} methods' if hidden else None


def handle(look: Look, name: str) -> Line2D:
  """Returns what stands for a method in a legend."""
  return Line2D(
    [],
    [],
    color=look.color,
    marker=look.marker,
    markersize=5,
    markeredgewidth=0,
    linewidth=1.4,
    label=cut(name),
  )


def legend(figure: Figure, handles: Sequence[Line2D], title: str | None) -> None:
  """Draws a legend below all panels, in as many columns as there is room for."""
  if handles:
    width = 0.55 + 0.075 * max(len(str(x.get_label())) for x in handles)  # inches
    columns = max(1, min(len(handles), int(figure.get_figwidth() / width)))
    figure.legend(handles=handles, loc='outside lower center', ncols=columns, title=title)


def cut(name: str, width: int = 34) -> str:
  """Returns a name without its middle if it is long: names may differ in either end."""
  if len(name) <= width:
    return name
  return f'{name[: width - width // 2 - 1]}…{name[-(width // 2) :]}'


def say_empty(axes: Axes, why: str = 'no records yet') -> None:
  """Writes why a panel is empty in its middle."""
  axes.text(0.5, 0.5, why, transform=axes.transAxes, ha='center', color=FAINT)
