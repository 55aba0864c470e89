#!/usr/bin/env bash
# Set up what is needed, then do what the options say (./run_all.sh --help). Works from any folder;
# plain bash 3.2 is enough.
set -u

root=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P) || exit 1
# This checkout, even where two share an environment; packages in the user's home do not mix in, and
# each module is compiled once, when it is first used.
export PYTHONPATH="$root${PYTHONPATH:+:$PYTHONPATH}" PYTHONNOUSERSITE=1
unset PYTHONHOME PYTHONDONTWRITEBYTECODE
need_kb=$((4 * 1024 * 1024)) # free disk that installing needs
# What pip says where there is no network.
no_network='NewConnectionError|NameResolutionError|connection broken|ConnectTimeout'
no_network="$no_network|Network is unreachable|Could not fetch URL|ProxyError|ReadTimeoutError"
# Folder of the environment, Python to start from, what the user has active.
env="" python="" active=""

die() {
  printf 'error: %s\n' "$1" >&2
  exit 1
}
say() { printf '[%3d:%02d] %s\n' $((SECONDS / 60)) $((SECONDS % 60)) "$1"; }
version_of() { "$1" -c 'import platform; print(platform.python_version())' 2>/dev/null; }
fits() {
  case "$(version_of "$1")" in
    3.11.* | 3.12.* | 3.13.*) return 0 ;;
    *) return 1 ;;
  esac
}

# The name of a finished set-up: it changes with the pins and with Python.
stamp_of() {
  "$1" - "$root" <<'END'
import hashlib, pathlib, platform, sys
root = pathlib.Path(sys.argv[1])
text = b"".join((root / name).read_bytes() for name in ("requirements.txt", "pyproject.toml"))
print(hashlib.sha256(text + platform.python_version().encode()).hexdigest())
END
}
has_pip() { "$env/bin/python" -m pip --version >/dev/null 2>&1; }
same_python() { [ "$(version_of "$env/bin/python")" = "$(version_of "$python")" ]; }
is_set_up() {
  fits "$env/bin/python" &&
    [ "$(cat "$env/.medxvl-installed" 2>/dev/null)" = "$(stamp_of "$env/bin/python")" ]
}

find_python() {
  local candidate found seen=""
  for candidate in ${PYTHON:+"$PYTHON"} python3 python3.12 python3.13 python3.11 python; do
    if fits "$candidate"; then # run, not looked up: a pyenv shim can be there and fail
      python=$candidate
      return
    fi
    found=$(version_of "$candidate")
    [ "$candidate" != "${PYTHON:-}" ] ||
      die "PYTHON=$PYTHON is not Python 3.11, 3.12 or 3.13${found:+: it is $found}."
    seen="$seen${found:+ $candidate is $found.}"
  done
  die "Python 3.11, 3.12 or 3.13 is needed, and none was found.$seen
Install one (apt install python3.12 python3.12-venv, brew install python@3.12,
conda create -n medxvl python=3.12) and start again, or name it: PYTHON=/path/to/python3.12 $0"
}

# Run pip quietly, with a sign of life; when it fails, say in one sentence what is wrong and where
# its log is.
pip_install() {
  local job waited=0
  "$env/bin/python" -m pip install --disable-pip-version-check --no-input "$@" >>"$log" 2>&1 &
  job=$!
  trap 'kill "$job" 2>/dev/null; exit 130' INT TERM
  while kill -0 "$job" 2>/dev/null; do
    sleep 0.5
    waited=$((waited + 1))
    [ $((waited % 60)) -ne 0 ] ||
      say "still installing, $(grep -cE '^(Collecting|Processing) ' "$log") packages found so far"
  done
  trap - INT TERM
  wait "$job" && return
  if grep -qE 'No space left on device|Errno 28' "$log"; then
    die "the disk ran full while installing. Free some space (also where temporary files go:\
 ${TMPDIR:-/tmp}) and start again. Log: $log"
  elif grep -qE "$no_network" "$log"; then
    die "no network: packages could not be downloaded. Connect (or set the proxy or package index\
 of your site for pip) and start again. Log: $log"
  elif grep -qE 'Permission denied|Errno 13|Read-only file system|externally-managed' "$log"; then
    die "$not_writable Log: $log"
  fi
  grep -E '^ERROR' "$log" | tail -n 3 >&2
  die "installing the packages failed. Log: $log"
}

make_venv() {
  "$python" -c 'import venv, ensurepip' >/dev/null 2>&1 ||
    die "this Python ($python, $(version_of "$python")) cannot make virtual environments: its\
 module venv or ensurepip is missing.
On Debian or Ubuntu: sudo apt install python3-venv. Or activate a conda or virtual environment, and\
 start again."
  rm -rf "$env"
  if ! "$python" -m venv "$env" >"$env.log" 2>&1; then
    tail -n 3 "$env.log" >&2
    die "making the virtual environment $env failed. Log: $env.log"
  fi
  rm -f "$env.log"
}

set_up() {
  local free
  free=$(df -Pk "$(dirname "$env")" 2>/dev/null | awk 'NR == 2 { print $4 }')
  [ "${free:-$need_kb}" -ge "$need_kb" ] ||
    die "no disk space: installing needs 4 GB, $(dirname "$env") has $((free / 1024)) MB free."
  say "setting up Python $(version_of "$python") in $env${active:+ (the active $active)};\
 the first time takes minutes"
  # A half-made .venv, or one of another Python, is made anew; the user's own never is.
  if [ -z "$active" ] && ! { same_python && has_pip; }; then make_venv; fi
  has_pip ||
    die "the active $active $env has no pip: install it there (conda install pip), or leave the\
 environment."
  log=$env/medxvl-install.log
  not_writable="the environment $env cannot be written to. Activate one of your own, or none (then\
 $root/.venv is made)."
  { rm -f "$env/.medxvl-installed" && : >"$log"; } 2>/dev/null || die "$not_writable"
  say "installing $(grep -c == "$root/requirements.txt") packages (log: $log)"
  # Each module is compiled when it is first used: a minute less.
  pip_install --no-compile -r "$root/requirements.txt"
  pip_install --no-deps --no-build-isolation --editable "$root"
  # The stamp comes last: a set-up that was cut off is never taken for a whole one.
  stamp_of "$env/bin/python" >"$env/.medxvl-installed.partial" &&
    mv "$env/.medxvl-installed.partial" "$env/.medxvl-installed"
  say "set up"
}

# --- which environment, and which Python to start from --------------------------------------------
if [ -n "${VIRTUAL_ENV:-}" ]; then
  env=$VIRTUAL_ENV active="virtual environment"
elif [ -n "${CONDA_PREFIX:-}" ] && [ "${CONDA_DEFAULT_ENV:-base}" != base ]; then
  env=$CONDA_PREFIX active="conda environment"
else
  env=$root/.venv
fi
if [ -n "$active" ]; then
  python=$env/bin/python
  found=$(version_of "$python" | sed 's/^/Python /' | grep . || echo 'no Python that runs')
  fits "$python" ||
    die "the active $active $env has $found, but Python 3.11, 3.12 or 3.13 is needed. Leave it\
 (deactivate), or activate another one."
elif [ -z "${PYTHON:-}" ] && is_set_up; then
  python=$env/bin/python
else
  find_python
fi

# --- help and mistyped options answer before anything is installed --------------------------------
case "${1:-}" in
  lab | test) ;;
  settings) exec "$python" -P -m medxvl.pipeline "$@" ;;
  *)
    for option in "$@"; do
      case "$option" in
        -h | --help) exec "$python" -P -m medxvl.pipeline --help ;;
        --) break ;;
      esac
    done
    "$python" -P -m medxvl.pipeline --check-options "$@" || exit $?
    ;;
esac

is_set_up && { [ -n "$active" ] || same_python; } || set_up
export PATH="$env/bin:$PATH"
exec "$env/bin/python" -P -m medxvl.pipeline "$@"
