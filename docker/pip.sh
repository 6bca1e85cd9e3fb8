#!/usr/bin/env bash
# pip for the image's build: behind a proxy with an authority of its own, and with nothing set that is empty.
set -euo pipefail
if [ -s /run/secrets/ca_bundle ]; then
    export PIP_CERT=/run/secrets/ca_bundle
fi
for name in PIP_INDEX_URL PIP_FIND_LINKS; do
    if [ -z "${!name:-}" ]; then
        unset "$name"
    fi
done
exec python -m pip "$@"
