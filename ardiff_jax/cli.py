"""What all commands share: flags, plain messages for user mistakes, exit status 2."""

import pathlib
import re
import signal
import sys
import traceback
from collections.abc import Callable
from typing import NoReturn

from absl import app, flags, logging
from ml_collections import ConfigDict, config_flags

from ardiff_jax import compiled, paths
from ardiff_jax.errors import UserError


def run(main: Callable[..., None], choices: tuple[str, ...] = ()) -> None:
  """Runs a command: parses the flags, calls `main`, turns a `UserError` into exit status 2.

  Args:
    main: called with nothing, or with the one of `choices` that stands on the command line.
    choices: what the command can do, if there is a choice.
  """

  def guarded(argv: list[str]) -> None:
    _quieten_libraries()
    compiled.keep()
    arguments = argv[1:]
    if choices and (len(arguments) != 1 or arguments[0] not in choices):
      _fail(f'say which of {", ".join(choices)}; got {" ".join(arguments) or "nothing"}')
    if arguments and not choices:
      _fail(f'unexpected argument {arguments[0]!r}; flags look like --name=value')
    try:
      main(*arguments)
    except (UserError, OSError) as error:  # the latter: a full disk, a file taken away, ...
      _fail_in_process(str(error), getattr(error, 'status', UserError.status))
    except KeyboardInterrupt:
      print('interrupted', file=sys.stderr)
      sys.exit(128 + signal.SIGINT)
    except Exception:
      _end_process()
      raise

  app.run(guarded, flags_parser=_parse)


def define_config() -> flags.FlagHolder:
  """Defines --config=FILE.py[:SIZE] and --config.KEY=VALUE."""
  help_string = 'Config file, e.g. configs/epsilon_hybrid.py:tiny; --config.KEY=VALUE overrides.'
  holder = config_flags.DEFINE_config_file('config', help_string=help_string, lock_config=True)
  flags.declare_key_flag('config')
  return holder


def read_config(
  flag: flags.FlagHolder, example: str = 'configs/epsilon_hybrid.py:tiny'
) -> ConfigDict:
  """Returns the config of a flag with its overrides.

  Args:
    flag: of a config file.
    example: named when it is missing.

  Raises:
    UserError: no config was named, or its file cannot be loaded.
  """
  try:
    config = flag.value
    if config is not None:
      config.lock()  # a file that failed to load fails at the first look at the config
  except Exception as error:  # the file is executed: whatever it raises, in a long report
    raise UserError(
      f'the config file of --{flag.name} cannot be loaded: {_last_line(error)}'
    ) from None
  if config is None:
    raise UserError(f'--{flag.name} is missing, e.g. --{flag.name}={example}')
  return config


def read_workdir(flag: flags.FlagHolder) -> pathlib.Path:
  """Returns --workdir as an absolute path.

  Raises:
    UserError: it was not given.
  """
  if not flag.value:
    raise UserError('--workdir is missing, e.g. --workdir=runs/first')
  return paths.path_of(flag.value)


def define_checkpoint() -> flags.FlagHolder:
  """Defines --checkpoint=newest|best|STEP."""
  help_string = "'newest', 'best' by the evaluations while training, or a step that was kept."
  return flags.DEFINE_string('checkpoint', 'newest', help_string)


def read_checkpoint(flag: flags.FlagHolder) -> str | int:
  """Returns what `ardiff_jax.load` takes.

  Raises:
    UserError: it is neither.
  """
  if flag.value in ('newest', 'best'):
    return flag.value
  if not flag.value.isdecimal():
    raise UserError(f"--checkpoint must be 'newest', 'best' or a step, got {flag.value!r}")
  return int(flag.value)


def _parse(argv: list[str]) -> list[str]:
  try:
    return flags.FLAGS(argv)
  except flags.Error as error:
    _fail(_last_line(error))  # a failing config file comes with its traceback
  except (AttributeError, KeyError, TypeError, ValueError) as error:  # a --config.KEY=VALUE
    key = re.search(r'[\w.]+', str(error))
    nearest = re.search(r'Did you mean "(\w+)"', str(error))
    hint = f'; did you mean {nearest[1]!r}?' if nearest else ''
    _fail(f'unknown config key {key[0] if key else error!r}{hint}')


def _quieten_libraries() -> None:
  """Keeps the libraries' own logs off the terminal; what they raise still reaches us.

  When a read or write of a checkpoint fails, tensorstore's threads also report to an event loop
  that orbax has closed by then: a traceback per array, of which none says more.
  """
  logging.set_verbosity(logging.FATAL)
  usual = sys.unraisablehook

  def hook(unraisable) -> None:
    if str(unraisable.exc_value) != 'Event loop is closed':
      usual(unraisable)

  sys.unraisablehook = hook


def _last_line(error: Exception) -> str:
  return str(error).strip().splitlines()[-1].strip()


def _fail_in_process(message: str, status: int) -> NoReturn:
  """Ends a command that may be one of several processes, see `processes`."""
  if 'jax' not in sys.modules:
    _fail(message, status)
  from ardiff_jax import processes

  print(f'error: {processes.name()}{message}', file=sys.stderr)
  processes.leave(status)


def _end_process() -> None:
  """Ends a process that broke, if it is one of several; else does nothing."""
  from ardiff_jax import processes

  if processes.name():
    traceback.print_exc()
    print(f'error: {processes.name()}ended by the error above', file=sys.stderr)
    processes.leave(1)


def _fail(message: str, status: int = UserError.status) -> NoReturn:
  print(f'error: {message}', file=sys.stderr)
  sys.exit(status)
