# `make up` runs the proxy in front of your kubeconfig, or a demo cluster where there is none; `make test` passes the tests.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready

.PHONY: up demo stack test test-fast lint bench dashboards clean

up: $(READY)
	@$(BIN)/kube-audit-proxy up

demo: $(READY)
	@$(BIN)/kube-audit-proxy up --demo

stack: $(READY)
	@$(BIN)/python -m kube_audit_proxy.demo.stack --default-ports

test: $(READY)-dev lint
	$(BIN)/pytest

test-fast: $(READY)-dev lint
	$(BIN)/pytest -m "not servers"

lint: $(READY)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(READY)-dev
	$(BIN)/python -m benchmarks
	$(BIN)/python -m benchmarks.shipping

dashboards: $(READY)-dev
	$(BIN)/python -m dashboards

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys, venv, ensurepip; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || \
		{ echo 'Python 3.11 or newer with its venv module is needed (Debian: apt install python3 python3-venv).' >&2; exit 1; }
	@echo 'Installing into .venv, once ...'
	@$(PYTHON) -m venv .venv
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --upgrade 'pip>=25.1'
	@$(BIN)/python -m pip install --quiet --editable .
	@touch $@

$(READY)-dev: $(READY)
	@$(BIN)/python -m pip install --quiet --group dev
	@touch $@

clean:
	rm -rf .venv .mypy_cache .ruff_cache .pytest_cache
