"""Records of a sweep: which methods and settings they are of, and means over their seeds.

A record is {'task', 'name', 'group', 'seed', 'model', 'settings', 'metrics'}, with 'signals' and
'edit_map' where the task makes them, or with 'error' in place of the metrics. A method is a name;
what takes several values under one name, of the settings and the model, is an axis of the sweep.
The other settings make a method what it is, or are the same everywhere.
"""

import json
import math
from collections.abc import Iterable, Sequence
from typing import Any, NamedTuple

Record = dict[str, Any]

UNREVISED = 'no revision'  # name of a text as it was; it has no settings of a revision


class Mean(NamedTuple):
  """A mean over seeds.

  Attributes:
    value: None if there is nothing to take the mean of.
    error: its standard error; None for fewer than two seeds.
  """

  value: float | None
  error: float | None


def newest(records: Iterable[Record]) -> list[Record]:
  """Returns the last record of each method, setting and seed, in the order of the first ones.

  So what failed and was done again later has not failed. Records without a seed all count.
  """
  found = {}
  for number, record in enumerate(records):
    found[figure(record) if record.get('seed') is not None else number] = record
  return list(found.values())


def figure(record: Record) -> str:
  """Returns which figure it is a record of; of several of one figure the last counts."""
  parts = 'task', 'group', 'name', 'model', 'settings', 'seed'
  return identity([record.get(part) for part in parts])


def failed(record: Record) -> bool:
  """Whether it has an error in place of metrics."""
  return record.get('error') is not None


def distinct(values: Iterable[Any]) -> list[Any]:
  """Returns the values, each once, in the order in which they come first."""
  return list({identity(value): value for value in values}.values())


def identity(value: Any) -> str:
  """Returns what values of JSON, lists and objects too, are the same by."""
  return json.dumps(value, sort_keys=True)


def names(records: Iterable[Record]) -> list[str]:
  """Returns the methods, in the order in which they come first."""
  return distinct(record['name'] for record in records)


def settings(record: Record) -> dict[str, Any]:
  """Returns the settings, with the model among them."""
  return {'model': record.get('model'), **(record.get('settings') or {})}


def axes(records: Sequence[Record]) -> list[str]:
  """Returns the settings that take several values under one name: what is swept over."""
  found = []
  for key in distinct(key for record in records for key in settings(record)):
    pairs = distinct([record['name'], settings(record).get(key)] for record in records)
    if len(pairs) > len(names(records)):
      found.append(key)
  return found


def common(records: Sequence[Record]) -> dict[str, Any]:
  """Returns the settings that are the same in all records, those of UNREVISED aside."""
  revised = [record for record in records if record['name'] != UNREVISED] or records
  found = {}
  for key in distinct(key for record in revised for key in settings(record)):
    values = distinct(settings(record).get(key) for record in revised)
    if len(values) == 1 and values[0] is not None:
      found[key] = values[0]
  return found


def one_setting(records: Sequence[Record], free: Sequence[str] = ()) -> list[Record]:
  """Returns the records of one point on the axes, to compare methods at.

  Args:
    records: of one task.
    free: axes along which all records stay.

  Returns:
    Those of the point that most methods have, of several the last. What has no value on an axis is
    at all its points.
  """
  fixed = [axis for axis in axes(records) if axis not in free]
  places = [tuple(natural(settings(record).get(axis)) for axis in fixed) for record in records]
  nowhere = natural(None)
  points = {}
  for point in sorted({p for p in places if nowhere not in p} or set(places)):
    points[point] = [
      record
      for record, place in zip(records, places, strict=True)
      if all(x in (nowhere, y) for x, y in zip(place, point, strict=True))
    ]
  most = max(points, key=lambda point: (len(names(points[point])), point), default=None)
  return points.get(most, [])


def natural(value: Any) -> tuple[int, float, str]:
  """Returns what values of a setting are sorted by: none, then numbers, then the others."""
  if value is None:
    return 0, 0.0, ''
  if isinstance(value, int | float):
    return 1, float(value), ''
  return 2, 0.0, value if isinstance(value, str) else identity(value)


def metric(record: Record, name: str) -> float | None:
  """Returns a figure of a record; None if it is missing or not finite."""
  value = (record.get('metrics') or {}).get(name)
  if not isinstance(value, int | float) or not math.isfinite(value):
    return None
  return float(value)


def mean(records: Iterable[Record], name: str) -> Mean:
  """Returns the mean of a figure over the records that have it, and its standard error."""
  values = [x for record in records if (x := metric(record, name)) is not None]
  if not values:
    return Mean(None, None)
  center = math.fsum(values) / len(values)
  if len(values) == 1:
    return Mean(center, None)
  variance = math.fsum((x - center) ** 2 for x in values) / (len(values) - 1)
  return Mean(center, math.sqrt(variance / len(values)))


def laws(records: Iterable[Record]) -> list[str]:
  """Returns whose law the likelihoods are of, a sentence for those that it is said of."""
  found = {}
  for record in records:
    if law := record.get('law'):
      found.setdefault(law, []).append(record['name'])
  return [f'{", ".join(distinct(whose))}: {law}' for law, whose in found.items()]
