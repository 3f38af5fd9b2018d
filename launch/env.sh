# shellcheck shell=bash
# Sourced by the other scripts: `prepare_env` makes .venv with what requirements.txt asks for, and
# reinstalls only when that has changed; `tune_cpu` sets what makes XLA faster on CPU; `pass_on`
# runs what a scheduler may interrupt; `run` prints a command instead where dry_run is set; `fail`
# ends a script that was called wrongly.

prepare_env() { # prepare_env [pip arguments for more than requirements.txt]
  local python="" candidate stamp
  for candidate in python3 python3.12 python3.11; do
    if "$candidate" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 12))' 2>/dev/null; then
      python=$candidate
      break
    fi
  done
  if ! .venv/bin/python -m pip --version >/dev/null 2>&1; then
    if [ -z "$python" ]; then
      echo "error: Python 3.11 or 3.12 is needed, and none was found on the PATH" >&2
      return 2
    fi
    echo "Making .venv with $("$python" --version)" >&2
    "$python" -m venv .venv
  fi
  stamp=$(cat requirements.txt pyproject.toml <(echo "$@") | cksum)
  if [ "$(cat ".venv/installed $*" 2>/dev/null)" != "$stamp" ]; then
    echo "Installing packages into .venv (about a minute)" >&2
    .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt "$@"
    echo "$stamp" >".venv/installed $*"
  fi
}

# XLA gives its temporaries back to the system and faults them in again, 10 to 27 % of a training
# step on CPU. One arena that keeps what it has avoids that; glibc reads these at start-up.
tune_cpu() {
  export MALLOC_ARENA_MAX=1 MALLOC_MMAP_MAX_=0
  export MALLOC_TRIM_THRESHOLD_=4294967296 MALLOC_TOP_PAD_=268435456
}

# A run that is interrupted saves and ends with 0, as one that is done does, and a scheduler must
# know which it was. This passes SIGNAL on to the command, notes in `told` that it came, and returns
# the status of the command itself.
pass_on() { # pass_on SIGNAL COMMAND...
  local signal=$1 command="" again=1 status=0
  shift
  told=""
  # shellcheck disable=SC2064 # which signal is known now, which process is not
  trap "told=1 again=1; kill -$signal \$command 2>/dev/null || true" "$signal"
  "$@" &
  command=$!
  [ -z "$told" ] || kill "-$signal" "$command" 2>/dev/null || true # it came in between
  while [ -n "$again" ]; do # `wait` ends when a signal comes, too
    again="" status=0
    wait "$command" || status=$?
  done
  trap - "$signal"
  return "$status"
}

run() {
  if [ -n "${dry_run-}" ]; then echo "${*@Q}"; else "$@"; fi
}

fail() {
  echo "error: $1" >&2
  exit 2
}
