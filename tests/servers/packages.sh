#!/bin/sh
# Installs Debian packages that are missing, where that is possible; else says what is missing, and goes on: tests that
# need what is not there are left out and say so.
# Usage: packages.sh WHAT PACKAGE...
set -u
what=$1
shift
if ! command -v apt-get >/dev/null; then
  echo "Not installed, because this is no Debian: $*. $what may be left out."
  exit 0
fi
missing=
for package in "$@"; do
  dpkg-query --show --showformat '${db:Status-Status}' "$package" 2>/dev/null | grep -qx installed ||
    missing="$missing $package"
done
[ -n "$missing" ] || exit 0
if [ "$(id -u)" -ne 0 ]; then
  echo "Not installed, because that takes root: apt-get install$missing. $what may be left out."
  exit 0
fi
echo "Installing$missing ..."
install() {
  # shellcheck disable=SC2086 # a list
  DEBIAN_FRONTEND=noninteractive apt-get install --yes --quiet --no-install-recommends $missing >/dev/null
}
install 2>/dev/null || { apt-get update --quiet >/dev/null && install; } ||
  echo "Could not be installed:$missing. $what may be left out."
