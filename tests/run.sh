#!/bin/sh
# Everything that must pass: ruff, mypy, pytest. Installs what is missing where it may.
#
#   sh tests/run.sh [pytest options]      sh tests/run.sh -m deep
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
cd "$root"

# Commands that the tests run, and the Debian packages that have them.
PATH=$PATH:/usr/sbin
missing=
for pair in node:nodejs npm:npm chromium:chromium ss:iproute2 curl:curl gcc:gcc \
    nginx:nginx-light haproxy:haproxy redis-server:redis-server promtool:prometheus; do
    command -v "${pair%%:*}" >/dev/null || missing="$missing ${pair##*:}"
done
sh deploy/venv.sh
.venv/bin/python -c 'import pathlib, sysconfig, sys
sys.exit(not pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())' ||
    missing="$missing python3-dev" # to build what has no wheel

if [ -n "$missing" ]; then
    if [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null; then
        echo "Installing$missing with apt-get..."
        # shellcheck disable=SC2086  # a list of words
        { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install $missing; } \
            </dev/null >/dev/null
    else
        echo "run.sh: these packages are missing:$missing. Install them, or run this as root on Debian." >&2
        exit 1
    fi
fi

sh deploy/venv.sh test

node=tests/support/node
if ! cmp -s $node/package-lock.json $node/node_modules/.installed; then
    echo "Installing the Node test backend..."
    npm ci --prefix $node --no-audit --no-fund --loglevel=error </dev/null
    cp $node/package-lock.json $node/node_modules/.installed
fi

bin=$root/.venv/bin
"$bin/ruff" check
"$bin/ruff" format --check
"$bin/mypy"
# A file's tests stay together: they share what is slow to start.
# One more at once than there are cores: many wait, for a process to start or a time to pass.
exec "$bin/python" -m pytest -n $(($(getconf _NPROCESSORS_ONLN) + 1)) --maxprocesses 4 --dist loadfile "$@"
