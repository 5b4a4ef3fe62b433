#!/bin/sh
# Sees to it that the page's tests find Debian's Chromium: installs it where it is missing and this user may.
command -v chromium >/dev/null 2>&1 && exit 0
if command -v apt-get >/dev/null 2>&1 && [ "$(id -u)" = 0 ]; then
  echo "Installing chromium …"
  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends chromium fonts-noto-cjk >/dev/null
else
  echo "The page's tests need Chromium: sudo apt-get install chromium (they are skipped without it)" >&2
fi
exit 0
