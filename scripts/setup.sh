#!/bin/sh
# Makes .venv what uv.lock says, on a machine that has Python >= 3.11 and nothing else.
# Safe to run again: what is there already is left alone. The cluster's own packages are the test bed's business.
set -eu
cd "$(dirname "$0")/.."

say() { printf 'setup: %s\n' "$*" >&2; }
fail() { say "$*"; exit 1; }

python=${PYTHON:-python3}
command -v "$python" >/dev/null 2>&1 || fail "no $python on PATH; install Python 3.11 or later (Debian, Ubuntu: apt-get install python3)"
"$python" -c 'import sys; sys.exit(not (3, 11) <= sys.version_info < (3, 15))' ||
    fail "$("$python" --version) will not do: 3.11 to 3.14 are needed; name another one with PYTHON=/path/to/python3"

has_header() { "$python" -c 'import sys, sysconfig, pathlib; sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").is_file())'; }
has_venv() { "$python" -c 'import ensurepip, venv' 2>/dev/null; }

# DeepSpeed compiles one small C++ extension when it is first used: a compiler and Python's headers.
missing=
command -v c++ >/dev/null 2>&1 || missing="$missing g++"
has_header || missing="$missing python3-dev"
command -v uv >/dev/null 2>&1 || has_venv || missing="$missing python3-venv"

if [ -n "$missing" ]; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then
        say "installing system packages:$missing"
        export DEBIAN_FRONTEND=noninteractive
        apt-get update -q >&2 || say "apt-get update failed; going on with the lists that are here"
        # shellcheck disable=SC2086  # a list of names
        apt-get install -y -q --no-install-recommends $missing >&2
    else
        fail "these system packages are missing:$missing. Install them (as root: apt-get install$missing), then run this again"
    fi
fi

if command -v uv >/dev/null 2>&1; then
    uv=uv
else
    home=${XDG_CACHE_HOME:-$HOME/.cache}/rlhf-operator/uv
    uv=$home/bin/uv
    if [ ! -x "$uv" ]; then
        say "installing uv into $home"
        "$python" -m venv --clear "$home" >&2
        "$home/bin/python" -m pip install --quiet --disable-pip-version-check 'uv>=0.9' >&2
    fi
fi

stamp=.venv/.synced
if [ -f "$stamp" ] && [ "$stamp" -nt uv.lock ] && [ "$stamp" -nt pyproject.toml ] && [ "$stamp" -nt scripts/setup.sh ] && [ -x .venv/bin/python ]; then
    exit 0
fi
say "making .venv as uv.lock says (the first time about 6 GB are unpacked, most of it torch)"
# The interpreter is named, so that uv never tries to download one; the system's certificates know a proxy's authority.
UV_PYTHON_DOWNLOADS=never UV_SYSTEM_CERTS=1 "$uv" sync --frozen --python "$python" >&2
touch "$stamp"
say "done: $(.venv/bin/python --version) in .venv"
