#!/usr/bin/env bash
# The one test command: its own environment, a browser, then lint, format, types, known vulnerabilities and all tests.
# Arguments go to pytest: bash tests/run.sh tests/test_requests.py -k seed
# Two processes, a file of tests at a time, as browsers and servers leave a core waiting; --numprocesses 0 is one.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

stop() {
  echo "$1" >&2
  exit 1
}

make_environment() {
  [[ -x .venv/bin/python ]] && return
  local python
  for python in python3 python3.13 python3.12 python3.11; do
    if "$python" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then
      "$python" -m venv .venv || stop "python3 -m venv failed; on Debian and Ubuntu: apt-get install python3-venv"
      return
    fi
  done
  stop "Python 3.11 or newer is needed, and no python3 here is; install one and run this again."
}

install_packages() {
  local stamp=.venv/installed-requirements hashes
  hashes=$(.venv/bin/python -c '
import hashlib, sys
print(*(hashlib.sha256(open(name, "rb").read()).hexdigest() for name in sys.argv[1:]))' \
    requirements.txt tests/requirements.txt)
  [[ -f $stamp && $(<"$stamp") == "$hashes" ]] && return
  .venv/bin/python -m pip install --quiet --disable-pip-version-check -r requirements.txt -r tests/requirements.txt
  echo "$hashes" >"$stamp"
}

find_browser() {
  command -v chromium || command -v chromium-browser || command -v google-chrome
}

install_browser() {
  find_browser >/dev/null && return
  local as_root=()
  if [[ $EUID -ne 0 ]]; then
    as_root=(sudo -n)
  fi
  if command -v apt-get >/dev/null && [[ $EUID -eq 0 || -n $(command -v sudo) ]]; then
    export DEBIAN_FRONTEND=noninteractive
    "${as_root[@]}" apt-get update -qq &&
      "${as_root[@]}" apt-get install -qq -y --no-install-recommends chromium fonts-dejavu-core >/dev/null || true
  fi
  find_browser >/dev/null || stop "The page is tested in a real browser and none is here: install Chromium or Google Chrome, so that 'chromium' or 'google-chrome' is on PATH, and run this again."
}

make_environment
install_packages
install_browser

export GRADIO_ANALYTICS_ENABLED=False HF_HUB_OFFLINE=1
.venv/bin/ruff check .
.venv/bin/ruff format --check .
.venv/bin/mypy
.venv/bin/python -m tests.dependency_audit
exec .venv/bin/python -m pytest --numprocesses 2 --dist loadfile "$@"
