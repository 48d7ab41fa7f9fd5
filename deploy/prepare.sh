#!/bin/sh
# Makes what docker-compose.yml needs and git must not have: passwords, and a kubeconfig that stands on its own.
# What is there already stays.
#
#   sh deploy/prepare.sh            # in front of the cluster of your current context
#   sh deploy/prepare.sh prod-eu    # or of another context of your kubeconfig
set -eu

cd "$(dirname "$0")/secrets"
umask 077
chmod 700 .

secret() {
	[ -s "$1" ] || head -c 24 /dev/urandom | od -An -v -tx1 | tr -d ' \n' >"$1"
}

secret grafana-admin-password
secret export-token
if [ ! -s kubeconfig ]; then
	kubectl config view --raw --flatten --minify ${1:+--context "$1"} >kubeconfig
fi

# The containers' users read them through the mount; nobody else on this machine gets past the folder.
chmod 444 grafana-admin-password export-token kubeconfig

echo "Grafana's administrator is admin, with the password in deploy/secrets/grafana-admin-password."
