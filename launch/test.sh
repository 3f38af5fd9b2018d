#!/usr/bin/env bash
# Lints and runs the tests, with --full the long products too; arguments go to pytest, e.g.
# `bash launch/test.sh -k noise`.
set -euo pipefail
cd "$(dirname "$0")/.."
source launch/env.sh
prepare_env -e '.[test]'

.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/python -m pytest "$@"
