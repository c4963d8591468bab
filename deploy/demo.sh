#!/bin/sh
# Shows what the proxy saves: makes .venv where it is missing, then runs `audio-proxy demo`.
#
#   sh deploy/demo.sh             a table
#   sh deploy/demo.sh --serve     a page to try it on; Ctrl-C ends it
set -eu

here=$(CDPATH='' cd -- "$(dirname -- "$0")" && pwd -P)
sh "$here/venv.sh"
exec "${here%/*}/.venv/bin/audio-proxy" demo "$@"
