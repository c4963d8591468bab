#!/bin/sh
# Makes .venv at the project's root and installs the project into it, editable.
#
#   sh deploy/venv.sh [GROUP...]      GROUP: a dependency group of pyproject.toml, such as test
#
# Does nothing where that has been done, works, and neither pyproject.toml nor what is in C has
# changed since.
# PYTHON names the interpreter to use; otherwise the newest of 3.11 and later is looked for.
set -eu

root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd -P)
venv=$root/.venv

say() { printf '%s\n' "$*" >&2; }
die() { say "venv.sh: $*"; exit 1; }

is_recent() { "$1" -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; }
has_venv() { "$1" -c 'import ensurepip, venv' 2>/dev/null; }

# apt_install PACKAGE...: only root on Debian and its kin can.
apt_install() {
    [ "$(id -u)" -eq 0 ] && command -v apt-get >/dev/null || return 1
    say "Installing $* with apt-get..."
    { apt-get -qq update && DEBIAN_FRONTEND=noninteractive apt-get -qq -y install "$@"; } \
        </dev/null >/dev/null
}

# The interpreter: one that can make venvs, or else any that is recent enough.
find_python() {
    other=
    for python in ${PYTHON:-python3.14 python3.13 python3.12 python3.11 python3 python}; do
        is_recent "$python" || continue
        if has_venv "$python"; then
            printf '%s\n' "$python"
            return
        fi
        other=${other:-$python}
    done
    printf '%s\n' "$other"
}

make_venv() {
    python=$(find_python)
    if [ -z "$python" ]; then
        [ -z "${PYTHON:-}" ] || die "PYTHON: $PYTHON is no Python 3.11 or later"
        apt_install python3 python3-venv || true
        python=$(find_python)
        [ -n "$python" ] || die "Python 3.11 or later is needed; put it on the PATH, or name it in PYTHON"
    fi
    if ! has_venv "$python"; then
        version=$("$python" -c 'import sys; print("%d.%d" % sys.version_info[:2])')
        apt_install "python$version-venv" || true
        has_venv "$python" ||
            die "$python cannot make virtual environments: install the package python$version-venv"
    fi
    say "Making $venv with $python..."
    "$python" -m venv --clear "$venv"
}

# Whether .venv is whole, and runs the code of this folder and not of one that it was copied from.
# Its first lines name the interpreter, also where its path has a space.
is_whole() {
    [ -x "$venv/bin/audio-proxy" ] && "$venv/bin/audio-proxy" --version >/dev/null 2>&1 &&
        "$venv/bin/python" -I -c '
import sys, pathlib, proxy
root = pathlib.Path(sys.argv[1])
here = pathlib.Path(proxy.__file__).parent.parent == root
sys.exit(not (here and pathlib.Path(sys.prefix) == root / ".venv"))' "$root" 2>/dev/null &&
        head -n 3 "$venv/bin/audio-proxy" | grep -qF "$venv/"
}

# is_installed NAME, set_installed NAME: for the files of now, and the compiler: what is in C is
# built by installing, where there is one.
stamp() {
    cat "$root/pyproject.toml" "$root"/proxy/*/*.c | cksum
    "$venv/bin/python" -c 'import pathlib, sysconfig
print(pathlib.Path(sysconfig.get_path("include"), "Python.h").exists())'
    command -v gcc || true
}
is_installed() { [ "$(cat "$venv/.installed-$1" 2>/dev/null)" = "$(stamp)" ]; }
set_installed() { stamp >"$venv/.installed-$1"; }

pip() {
    PYTHONWARNINGS=ignore:::setuptools.config.pyprojecttoml \
        "$venv/bin/python" -m pip --disable-pip-version-check -q "$@" >&2 || die "pip failed"
}

if ! is_whole; then
    make_venv
    say "Updating pip in it..."
    pip install --upgrade 'pip>=25.1' # the first that knows --group
fi
if ! is_installed project; then
    say "Installing audio-proxy and what it needs (a minute, the first time)..."
    pip install -e "$root[flac,opus,redis]"
    set_installed project
fi
for group in "$@"; do
    if ! is_installed "$group"; then
        say "Installing the dependency group '$group'..."
        pip install --group "$root/pyproject.toml:$group"
        set_installed "$group"
    fi
done
