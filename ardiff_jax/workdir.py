"""The work directory: which files it holds, and when a run may go on in it.

config.json    config, tokenizer and corpus of the run, written once
checkpoints/   see training.checkpointing
metrics.jsonl, samples.jsonl, refined.jsonl, eval.jsonl, ... of `evaluate`    one JSON object a line
tensorboard/   event files
profile/       traces of training steps
report.html    the page made of all these
done           there when all steps are
tokenizer files
"""

import importlib.metadata
import json
import pathlib
import platform
import re
from collections.abc import Collection, Iterator
from typing import Any

from ml_collections import ConfigDict

from ardiff_jax import paths
from ardiff_jax.errors import UserError

# May differ when a run is resumed: they say how often to look and on which devices, not what to
# compute.
_FREE = re.compile(
  r'mesh\..*|model\.(remat|attention)|'
  r'train\.(accumulate|log_every|eval_every|checkpoint_every|save_in_background|keep|keep_every|'
  r'peak_flops)'
)


def read(workdir: pathlib.Path) -> dict[str, Any]:
  """Returns the content of config.json: config, tokenizer, corpus, versions and parameters.

  Raises:
    UserError: it is missing or damaged.
  """
  path = workdir / 'config.json'
  try:
    content = json.loads(path.read_text())
  except (FileNotFoundError, NotADirectoryError):
    raise UserError(f'{workdir} is not a work directory: it holds no config.json') from None
  except (OSError, ValueError) as error:
    raise UserError(f'{path} cannot be read: {error}') from None
  missing = {'config', 'tokenizer', 'corpus', 'parameters'} - set(content)
  if missing:
    raise UserError(f'{path} is damaged: it lacks {", ".join(sorted(missing))}')
  return content


def exists(workdir: pathlib.Path) -> bool:
  """Whether a run has been started in this directory."""
  return (workdir / 'config.json').exists()


def is_done(workdir: pathlib.Path) -> bool:
  """Whether a run has taken all its steps here."""
  return (workdir / 'done').exists()


def mark_done(workdir: pathlib.Path) -> None:
  """Notes that all steps of the run are taken, and saved."""
  (workdir / 'done').touch()


def create(workdir: pathlib.Path) -> None:
  """Makes the directory.

  Raises:
    UserError: it cannot be made or written.
  """
  try:
    workdir.mkdir(parents=True, exist_ok=True)
    probe = workdir / '.writable'
    probe.touch()
    probe.unlink()
  except OSError as error:
    raise UserError(f'--workdir={workdir} cannot be written: {error.strerror}') from None


def write(workdir: pathlib.Path, content: dict[str, Any]) -> None:
  """Writes config.json, whole or not at all."""
  paths.write_whole(workdir / 'config.json', json.dumps(content, indent=2) + '\n')


def append(path: pathlib.Path, records: list[dict[str, Any]]) -> None:
  """Appends one JSON line per record."""
  paths.append(path, _lines(records))


def rewrite(path: pathlib.Path, records: list[dict[str, Any]]) -> None:
  """Writes a JSON-lines file anew, whole or not at all."""
  paths.write_whole(path, _lines(records))


def _lines(records: list[dict[str, Any]]) -> str:
  lines = [json.dumps(record, ensure_ascii=False, allow_nan=False) for record in records]
  return ''.join(line + '\n' for line in lines)


def read_lines(path: pathlib.Path) -> list[dict[str, Any]]:
  """Returns the records of a JSON-lines file; none if it does not exist.

  A last line without its end, cut off by a kill, is left out.

  Raises:
    UserError: another line is damaged.
  """
  if not path.exists():
    return []
  records = []
  for number, line in enumerate(path.read_text().split('\n')[:-1], 1):
    try:
      records.append(json.loads(line))
    except ValueError:
      raise UserError(f'{path}, line {number} is no JSON: mend or remove it') from None
  return records


def check_same_run(
  workdir: pathlib.Path, old: dict[str, Any], new: dict[str, Any], free: Collection[str] = ()
) -> None:
  """Refuses to go on with another config, corpus or tokenizer than the run was started with.

  Args:
    workdir: named in the message.
    old: content of config.json.
    new: what this command would write there.
    free: keys of the config, dotted, that may differ, beside those that never matter.

  Raises:
    UserError: they differ, with the difference.
  """
  for what, differences in _differences(old, new, free):
    raise UserError(
      f'{workdir} was started with another {what}; use another --workdir, or what it had:\n  '
      + '\n  '.join(differences)
    )


def check_same_processes(descriptions: list[dict[str, Any]]) -> None:
  """Refuses processes that would train together on different things.

  Args:
    descriptions: content of config.json as each process would write it.

  Raises:
    UserError: they differ, with the difference.
  """
  for process, description in enumerate(descriptions):
    for what, differences in _differences(descriptions[0], description):
      raise UserError(
        f'process {process} has another {what} (here) than process 0 (there):\n  '
        + '\n  '.join(differences)
      )


def _differences(
  old: dict[str, Any], new: dict[str, Any], free: Collection[str] = ()
) -> Iterator[tuple[str, list[str]]]:
  """Yields what differs, config, vocabulary or corpus, and a line for each difference."""
  for part, what in (('config', 'config'), ('tokenizer', 'vocabulary'), ('corpus', 'corpus')):
    before, now = flatten(old[part]), flatten(new[part])
    differences = [
      f'{part}.{key}: {before.get(key)!r} there, {now.get(key)!r} here'
      for key in sorted(before.keys() | now.keys())
      if before.get(key) != now.get(key)
      and not (part == 'config' and (key in free or _FREE.fullmatch(key)))
    ]
    if differences:
      yield what, differences


def versions() -> dict[str, str]:
  """Returns the versions of Python and of the libraries that figures depend on."""
  libraries = ('jax', 'flax', 'optax', 'grain', 'numpy')
  return {'python': platform.python_version()} | {
    name: importlib.metadata.version(name) for name in libraries
  }


def to_json(config: ConfigDict) -> dict[str, Any]:
  """Returns the config as it reads back from JSON, so that both compare equal."""
  return json.loads(config.to_json_best_effort())


def flatten(tree: dict[str, Any], prefix: str = '') -> dict[str, Any]:
  """Returns the leaves of a nested dict by their keys, joined by dots."""
  flat = {}
  for key, value in tree.items():
    if isinstance(value, dict):
      flat |= flatten(value, f'{prefix}{key}.')
    else:
      flat[prefix + key] = value
  return flat
