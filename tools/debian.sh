#!/bin/sh
# Sees to it that the tests find the Debian programs they drive: Chromium, OpenSSH (both ends), nginx and openssl.
# Installs those that are missing, where this user may; no server is started.
missing=""
need() {
  PATH="$PATH:/usr/sbin" command -v "$1" >/dev/null 2>&1 || { shift; missing="$missing $*"; }
}
need chromium chromium fonts-noto-cjk
need ssh openssh-client
need sshd openssh-server
need nginx nginx-light
need openssl openssl
[ -z "$missing" ] && exit 0
if ! command -v apt-get >/dev/null 2>&1 || [ "$(id -u)" != 0 ]; then
  echo "Some tests need more of Debian, and are skipped without it: sudo apt-get install$missing" >&2
  exit 0
fi
echo "Installing$missing …"
# What would start the servers asks this file first.
policy=/usr/sbin/policy-rc.d
if [ ! -e $policy ]; then
  printf '#!/bin/sh\nexit 101\n' >$policy && chmod +x $policy
  trap 'rm -f $policy' EXIT
fi
apt-get update -qq
# shellcheck disable=SC2086  a list of packages
DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends $missing >/dev/null
exit 0
