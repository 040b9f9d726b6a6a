#!/usr/bin/env bash
# Chromium, which the tests open the library's pages in. On a bare Debian machine, as root, it is installed; elsewhere the
# one line that is needed is printed, and those tests are skipped.
set -euo pipefail
source "$(dirname "$0")/debian.sh"

for name in chromium chromium-browser google-chrome google-chrome-stable chrome; do
    if command -v "$name" >/dev/null; then exit 0; fi
done
system --no-install-recommends chromium || echo "without a browser the tests of how pages look are skipped" >&2
