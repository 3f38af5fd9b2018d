"""Sweeps: the models they train, and the figures they take of them.

A sweep is a config file like any other. Its fields are

  seeds     repetitions
  common    overrides of all models' configs
  models    by name: `config`, a config file such as 'configs/ar.py:tiny'; `override`, fields of
            it; `per_seed`, whether every repetition trains its own; or `workdir`, a finished run
  runs      by name: `task`, which figures (see `tasks`); `group`, the table they stand in; `grid`,
            settings whose values are tried one by one; `title`, if it is to be shown
            under another name than its own; and what else the task reads

In an override, '@name' stands for the work directory of that model, which is trained before. Models
lie in DIR/models, figures in DIR/results.jsonl, a line each; DIR/starts.jsonl says how they came
about. What is there already is not done again, wherever it was trained (`trainings` says how).
"""

import collections
import dataclasses
import importlib.util
import itertools
import json
import math
import pathlib
import sys
import time
import traceback
from collections.abc import Iterator, Sequence
from typing import Any

from ml_collections import ConfigDict

from ardiff_jax import compiled, paths, samplers
from ardiff_jax import workdir as files
from ardiff_jax.ablation import origins
from ardiff_jax.ablation import records as lib
from ardiff_jax.ablation.models import Models
from ardiff_jax.ablation.tasks import TASKS
from ardiff_jax.errors import UserError
from ardiff_jax.evaluation import choices, sets
from ardiff_jax.judging import mauve
from ardiff_jax.progress import Progress
from ardiff_jax.sampling.revision import Revision
from ardiff_jax.training import loop

_ROLES = 'model', 'judge', 'drafter'  # of models, in runs


@dataclasses.dataclass(frozen=True)
class Cell:
  """One figure to take: a run at one seed and one point of its grid."""

  name: str
  run: ConfigDict
  seed: int
  settings: dict[str, Any]

  @property
  def identity(self) -> dict[str, Any]:
    """What a record says of it; figures of the same identity are the same."""
    return {
      'task': self.run.task,
      'name': self.run.get('title') or self.name,
      'group': self.run.group,
      'seed': self.seed,
      'model': self.run.model,
      'settings': self.settings,
      'run': {
        k: x for k, x in files.to_json(self.run).items() if k not in ('grid', 'group', 'title')
      },
    }


@dataclasses.dataclass(frozen=True)
class Training:
  """One model to train: what `python -m ardiff_jax.train` gets.

  Attributes:
    name: of the model in the sweep.
    workdir: of the run.
    file: of the config, such as 'configs/ar.py:tiny'.
    config: what it becomes with the overrides of the sweep.
    needs: work directories of the trainings that come before.
    references: keys of the config that name one of these.
  """

  name: str
  workdir: pathlib.Path
  file: str
  config: ConfigDict
  needs: tuple[pathlib.Path, ...]
  references: tuple[str, ...]

  @property
  def done(self) -> bool:
    return files.is_done(self.workdir)


def run(sweep: ConfigDict, directory: pathlib.Path, only: Sequence[str] = ()) -> bool:
  """Trains what is missing, takes the figures that are missing, and returns whether all are there.

  A figure that fails, or whose model cannot be trained, is recorded with its error, and tried again
  the next time.

  Args:
    sweep: see above.
    directory: work directory of the sweep.
    only: methods to measure, and to train models for; none for all.

  Raises:
    UserError: the sweep is none, lacks such a method, or was another one when it was started here;
      or a model of it was trained with other settings than its config file has now.
  """
  cells = _only(check(sweep), only)
  begin(sweep, directory)
  origins.note(directory)
  lost = _train(sweep, directory, cells, everything=not only)
  if lost is None:
    return False

  results = directory / 'results.jsonl'
  kept = [record for record in files.read_lines(results) if 'error' not in record]
  done, wanted = {_key(record) for record in kept}, {_key(cell.identity) for cell in cells}
  first = {lib.figure(record): place for place, record in reversed([*enumerate(kept)])}
  # the tables show the last of several records of a figure: let it be what is asked for now
  order = lambda record: (first[lib.figure(record)], _key(record) in wanted)  # noqa: E731
  files.rewrite(results, sorted(kept, key=order))
  left = [cell for cell in cells if _key(cell.identity) not in done]
  models = Models(lambda name, seed: model_directory(sweep, directory, name, seed))
  progress = Progress('ablate', len(cells), len(cells) - len(left))
  began, failed = time.monotonic(), 0
  for number, cell in enumerate(left, 1):
    try:
      if missing := sorted(_models_of(sweep, directory, cell) & lost.keys()):
        figures, failed = {'error': lost[missing[0]]}, failed + 1
      else:
        figures = TASKS[cell.run.task](models, cell.run, cell.settings, cell.seed)
    except Exception as error:  # one bad combination must not lose the others
      figures, failed = {'error': _told(error)}, failed + 1
    files.append(results, [cell.identity | _finite(figures)])
    compiled.drop_many()
    each = (time.monotonic() - began) / number
    progress.show(len(cells) - len(left) + number, f'{cell.name}, {each:.1f} s a figure', None)
  progress.close()
  return not failed and not lost


def _train(
  sweep: ConfigDict, directory: pathlib.Path, cells: Sequence[Cell], everything: bool
) -> dict[pathlib.Path, str] | None:
  """Trains what is missing of all models, or of those that the figures need.

  Returns:
    Why there is no model, by its directory, for those whose training failed or that need such a
    one; None after an interruption.
  """
  wanted = {model for cell in cells for model in _models_of(sweep, directory, cell)}
  planned = trainings(sweep, directory)
  for training in reversed(planned):  # each comes after those it needs
    if training.workdir in wanted:
      wanted.update(training.needs)
  lost = {}
  planned = [one for one in planned if everything or one.workdir in wanted]
  for training in planned:
    if training.done:
      old = files.read(training.workdir)
      new = old | {'config': files.to_json(training.config)}
      files.check_same_run(training.workdir, old, new, training.references)
  for training in planned:
    if training.done:
      continue
    if missing := [lost[need] for need in training.needs if need in lost]:
      lost[training.workdir] = missing[0]
      continue
    name = training.workdir.name
    print(f'ablate: training {name}', file=sys.stderr, flush=True)
    try:
      if not loop.train(training.config, training.workdir):
        return None
    except Exception as error:  # one bad model must not lose the others
      lost[training.workdir] = f'{name} was not trained: {_told(error)}'
      print(f'ablate: {lost[training.workdir]}', file=sys.stderr, flush=True)
    compiled.drop_many()
  return lost


def _models_of(sweep: ConfigDict, directory: pathlib.Path, cell: Cell) -> set[pathlib.Path]:
  """Returns the work directories of the models that a figure is taken with."""
  roles = (role for role in _ROLES if cell.run.get(role))
  return {model_directory(sweep, directory, cell.run[role], cell.seed) for role in roles}


def _told(error: Exception) -> str:
  """Returns what a record says of an error; of one that nobody foresaw, prints where it arose."""
  if not isinstance(error, UserError | loop.TrainingDiverged):
    traceback.print_exc()
  return f'{type(error).__name__}: {error}'


def model_directory(sweep: ConfigDict, directory: pathlib.Path, name: str, seed: int):
  """Returns the work directory of a model of the sweep.

  Raises:
    UserError: there is no such model.
  """
  if name not in sweep.models:
    raise UserError(f'the sweep has no model {name!r}; it has {", ".join(sweep.models)}')
  model = sweep.models[name]
  if model.get('workdir'):
    return paths.path_of(model.workdir)
  part = f'{name}-{seed}' if model.get('per_seed') else name
  return directory / 'models' / part.replace(' ', '_')


def _cells(sweep: ConfigDict) -> Iterator[Cell]:
  for name, run in sweep.runs.items():
    grid = run.get('grid', {})
    for point in itertools.product(*grid.values()):
      for seed in sweep.seeds:
        yield Cell(name, run, seed, dict(zip(grid, point, strict=True)))


def check(sweep: ConfigDict) -> list[Cell]:
  """Returns the figures to take, having looked for what would fail after hours of training.

  Raises:
    UserError: with what would.
  """
  missing = sorted({'seeds', 'common', 'models', 'runs'} - set(sweep))
  missing += [
    f'{name}.{key}'
    for name, run in sweep.get('runs', {}).items()
    for key in ('task', 'group', 'model')
    if key not in run
  ]
  missing += [
    f'{name}.config'
    for name, model in sweep.get('models', {}).items()
    if not model.get('config') and not model.get('workdir')
  ]
  if missing:
    raise UserError(f'the sweep lacks {", ".join(missing)}: see ardiff_jax/ablation/sweep.py')
  cells = list(_cells(sweep))
  if not cells:
    raise UserError('the sweep has no runs')
  twice = [
    key for key, count in collections.Counter(_key(x.identity) for x in cells).items() if count > 1
  ]
  if twice:
    raise UserError(f'the sweep asks for a figure twice: {twice[0]}')
  for name, model in sweep.models.items():
    if not model.get('workdir'):
      _configured(sweep, name, model, lambda value: value)
  for name, run in sweep.runs.items():
    if 'revision' in run:
      settings = run.revision.to_dict()
      if settings.get('doubt') == 'oracle':
        settings['truth'] = ()
      try:
        Revision(**settings).check()
      except (TypeError, ValueError) as error:
        raise UserError(f'run {name!r} of the sweep: {error}') from error
  for text in dict.fromkeys(cell.settings.get('data', 'valid') for cell in cells):
    if text != 'valid':
      sets.read(text)
  for file in dict.fromkeys(cell.settings['file'] for cell in cells if 'file' in cell.settings):
    choices.read(file)
  if any(x.run.task == 'generation' and x.run.num_texts >= mauve.LEAST for x in cells):
    mauve.library()
  for cell in cells:
    if cell.run.task not in TASKS:
      raise UserError(
        f'run {cell.name!r}: unknown task {cell.run.task!r}; known: {", ".join(TASKS)}'
      )
    for role in _ROLES:
      if cell.run.get(role) and cell.run[role] not in sweep.models:
        raise UserError(
          f'run {cell.name!r}: its {role} {cell.run[role]!r} is not among the models of the sweep: '
          f'{", ".join(sweep.models)}'
        )
  used = {cell.run[role] for cell in cells for role in _ROLES if cell.run.get(role)}
  for name, model in sweep.models.items():
    if name in used and not model.get('workdir'):
      try:
        samplers.check(_configured(sweep, name, model, lambda value: value))
      except UserError as error:
        raise UserError(f'model {name!r} of the sweep: {error}') from error
  return cells


def _only(cells: list[Cell], names: Sequence[str]) -> list[Cell]:
  """Returns the figures of the methods that are named, or of all if none is."""
  known = list(dict.fromkeys(cell.identity['name'] for cell in cells))
  if missing := [name for name in names if name not in known]:
    raise UserError(f'the sweep has no method {missing[0]!r}; it has {", ".join(known)}')
  return [cell for cell in cells if not names or cell.identity['name'] in names]


def begin(sweep: ConfigDict, directory: pathlib.Path) -> None:
  """Makes the directory, or goes on in it; the runs of the sweep may have grown since.

  Raises:
    UserError: its models are not those of this sweep.
  """
  files.create(directory)
  path = directory / 'sweep.json'
  settings = {'common': files.to_json(sweep.common), 'models': files.to_json(sweep.models)}
  if path.exists():
    try:
      before = json.loads(path.read_text(encoding='utf-8'))
      before = {part: before[part] for part in ('models', 'common')}
    except (ValueError, KeyError, TypeError) as error:
      raise UserError(
        f'{path} is damaged ({error}): restore it, or use another --workdir'
      ) from None
    changed = [
      name
      for name in before['models'].keys() & settings['models'].keys()
      if before['models'][name] != settings['models'][name]
    ]
    if before['common'] != settings['common']:
      changed.append('common')
    if changed:
      raise UserError(
        f'{directory} was started with other settings of {", ".join(sorted(changed))}; use another '
        '--workdir'
      )
    settings['models'] = before['models'] | settings['models']
  paths.write_whole(path, json.dumps(settings, indent=2) + '\n')


def trainings(sweep: ConfigDict, directory: pathlib.Path) -> list[Training]:
  """Returns all models to train, done or not, each after those it needs.

  Raises:
    UserError: a model needs itself, or one that the sweep does not have.
  """
  found: dict[pathlib.Path, Training] = {}

  def add(name: str, seed: int, before: tuple[str, ...] = ()) -> tuple[pathlib.Path, ...]:
    """Adds a model and what it needs; returns its directory, or nothing if it is given."""
    if name in before:
      raise UserError(f'model {name!r} of the sweep needs itself, by way of {", ".join(before)}')
    target, others = model_directory(sweep, directory, name, seed), []
    model = sweep.models[name]
    if model.get('workdir'):
      return ()
    if target not in found:

      def directory_of(value: str) -> str:
        other, slash, rest = value[1:].partition('/')
        others.append(other)
        return f'{model_directory(sweep, directory, other, seed)}{slash}{rest}'

      config = _configured(sweep, name, model, directory_of)
      if model.get('per_seed'):
        config.seed = seed
      needs = tuple(need for other in others for need in add(other, seed, (*before, name)))
      override = files.flatten(files.to_json(sweep.common))
      override |= files.flatten(files.to_json(model.get('override', ConfigDict())))
      references = tuple(key for key, value in override.items() if str(value).startswith('@'))
      found[target] = Training(name, target, model.config, config, needs, references)
    return (target,)

  for name, model in sweep.models.items():
    for seed in sweep.seeds if model.get('per_seed') else (0,):
      add(name, seed)
  return list(found.values())


def _configured(sweep: ConfigDict, name: str, model: ConfigDict, directory_of) -> ConfigDict:
  """Returns the config of a model; `directory_of` is asked for values that begin with @."""

  def resolved(tree: Any) -> Any:
    if isinstance(tree, ConfigDict):
      return {key: resolved(value) for key, value in tree.items()}
    return directory_of(tree) if isinstance(tree, str) and tree.startswith('@') else tree

  config = read_config(model.config)
  try:
    config.update(resolved(sweep.common))
    config.update(resolved(model.get('override', ConfigDict())))
  except (AttributeError, KeyError, TypeError, ValueError) as error:
    raise UserError(f'model {name!r} of the sweep: {error}') from error
  return config


def _finite(figures: Any) -> Any:
  """Figures that are no numbers, such as a share of nothing, as None."""
  if isinstance(figures, dict):
    return {key: _finite(value) for key, value in figures.items()}
  if isinstance(figures, list):
    return [_finite(value) for value in figures]
  return None if isinstance(figures, float) and not math.isfinite(figures) else figures


def read_config(name: str) -> ConfigDict:
  """Returns the config of a file such as 'configs/ar.py:tiny'.

  Raises:
    UserError: there is no such file, or it fails.
  """
  path, _, size = name.partition(':')
  spec = importlib.util.spec_from_file_location('swept_config', path)
  try:
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    config = module.get_config(size) if size else module.get_config()
  except Exception as error:  # the file is executed: whatever it raises
    raise UserError(f'the config file {name!r} of the sweep cannot be loaded: {error}') from error
  config.lock()
  return config


def _key(record: dict[str, Any]) -> str:
  parts = ('task', 'name', 'seed', 'settings', 'run')
  return json.dumps({part: record[part] for part in parts}, sort_keys=True)
