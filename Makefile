# `make up` runs the proxy in front of your kubeconfig, or a demo cluster where there is none; `make test` passes the tests.
PYTHON ?= python3
BIN := .venv/bin
READY := .venv/.ready
COMPILED := $(CURDIR)/build/compiled
SOURCES := $(shell find proxy -name '*.py')
NODE_PACKAGES := runc containernetworking-plugins busybox-static iptables conntrack iproute2 gcc libc6-dev

.PHONY: up demo stack test test-fast lint bench dashboards clean

up: $(READY)
	@$(BIN)/kube-audit-proxy up

demo: $(READY)
	@$(BIN)/kube-audit-proxy up --demo

stack: $(READY)
	@$(BIN)/python -m kube_audit_proxy.demo.stack --default-ports

# What is deployed is tested: the package with the way of a call compiled. Plain `pytest` takes the sources as they are.
test: $(COMPILED)/.ready lint
	@tests/servers/packages.sh 'What runs on a real node' $(NODE_PACKAGES)
	@tests/servers/packages.sh 'A change of keys' openssl
	PYTHONPATH=$(COMPILED) $(BIN)/pytest

test-fast: $(READY)-dev lint
	$(BIN)/pytest -m "not servers"

lint: $(READY)-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: $(COMPILED)/.ready
	@tests/servers/packages.sh 'A benchmark' nginx-light $(NODE_PACKAGES)
	PYTHONPATH=$(COMPILED):tests $(BIN)/python -m benchmarks

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

$(COMPILED)/.ready: $(READY)-dev $(SOURCES)
	@tests/servers/packages.sh 'Compiling' gcc libc6-dev
	@rm -rf build && mkdir -p build/source && cp -r pyproject.toml README.md LICENSE proxy build/source
	@if command -v cc >/dev/null; then echo 'Compiling the way of a call (about a minute) ...'; \
		else echo 'Not compiled, because there is no C compiler: slower, and otherwise the same.'; fi
	@HATCH_BUILD_HOOK_ENABLE_MYPYC=$$(command -v cc >/dev/null && echo 1 || echo 0) $(BIN)/python -m pip wheel --quiet \
		--disable-pip-version-check --no-deps --wheel-dir build build/source
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --target $(COMPILED) build/*.whl
	@touch $@

clean:
	rm -rf build .venv .mypy_cache .ruff_cache .pytest_cache
