# Two commands do everything: `make run` and `make test`. `make help` lists the rest.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check --quiet
ARGS ?=
# In the order they stand, the quick unit tests last: by number of tests, a long file of few would be last.
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder
NODE := tests/contract/node
NODE_MODULES := $(if $(shell command -v npm 2>/dev/null),$(NODE)/node_modules/.done)
CLIENTS := $(VENV)-openai-1/.done $(VENV)-anthropic-0/.done $(VENV)-clients/.done $(NODE_MODULES)

.DEFAULT_GOAL := help
.PHONY: help run test check docs fmt bench chaos lock audit up clean

help: ## Show this list
	@grep -hE '^[a-z]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 10

run: $(VENV)/.runtime ## Start the broker on its embedded default, with nothing else to install
	@exec $(BIN)/headrace up $(ARGS)

test: $(VENV)/.dev $(CLIENTS) ## Run the whole test suite on real servers
	$(PYTEST) --ignore tests/chaos $(ARGS)
	$(PYTEST) tests/chaos $(ARGS)

check: $(VENV)/.dev ## Lint, formatting, types, import contracts and the links of the documentation
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/lint-imports --no-cache
	$(BIN)/mypy
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict

docs: $(VENV)/.dev ## Build the documentation site into site/ (ARGS=serve shows it while you write)
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs $(or $(ARGS),build --strict)

fmt: $(VENV)/.dev ## Format the code and fix what lint can fix
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

bench: $(VENV)/.dev ## Measure throughput, latency and CPU per request
	$(BIN)/python -m bench $(ARGS)

chaos: $(VENV)/.dev ## Kill processes under load and check that nothing is lost
	$(PYTEST) tests/chaos -m chaos -q $(ARGS)

lock: $(VENV)/.dev ## Resolve the lock files anew (hashes, no index addresses)
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header pyproject.toml -o requirements/runtime.txt $(ARGS)
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header --extra dev -c requirements/runtime.txt pyproject.toml -o requirements/dev.txt $(ARGS)
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/openai-1.in -o requirements/openai-1.txt $(ARGS)
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/anthropic-0.in -o requirements/anthropic-0.txt $(ARGS)
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/clients.in -o requirements/clients.txt $(ARGS)
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header -c requirements/dev.txt requirements/build.in -o requirements/build.txt $(ARGS)
	$(BIN)/uv pip compile -q --universal --python-version 3.11 --generate-hashes --no-emit-index-url --no-header requirements/audit.in -o requirements/audit.txt $(ARGS)
	$(if $(NODE_MODULES),cd $(NODE) && npm update --package-lock-only --ignore-scripts)

audit: $(VENV)-audit/.done ## Look for known holes in what is locked, and write the bill of materials to dist/
	for lock in runtime build dev clients audit; do \
		$(VENV)-audit/bin/pip-audit --strict --disable-pip --require-hashes -r requirements/$$lock.txt $(ARGS) || exit 1; \
	done
	@mkdir -p dist
	$(VENV)-audit/bin/cyclonedx-py requirements requirements/runtime.txt --pyproject pyproject.toml --output-reproducible -o dist/headrace.cdx.json

up: ## Build the image and start all of it in containers
	deploy/compose/make-env.sh
	docker compose up --build --detach

clean: ## Remove the virtual environments and caches
	rm -rf $(VENV) $(VENV)-* $(NODE)/node_modules .mypy_cache .ruff_cache .pytest_cache .hypothesis

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.runtime: $(VENV)/bin/python requirements/runtime.txt requirements/build.txt pyproject.toml
	$(PIP) install --require-hashes -r requirements/runtime.txt -r requirements/build.txt
	$(PIP) install --no-deps --no-build-isolation -e .
	@touch $@

$(VENV)/.dev: $(VENV)/.runtime requirements/dev.txt
	$(PIP) install --require-hashes -r requirements/dev.txt
	@touch $@

$(VENV)-openai-1/.done $(VENV)-anthropic-0/.done: $(VENV)-%/.done: $(VENV)/.runtime requirements/%.txt
	$(PIP) install --require-hashes --target $(VENV)-$* --upgrade -r requirements/$*.txt
	@touch $@

$(VENV)-audit/.done: requirements/audit.txt
	$(PYTHON) -m venv $(VENV)-audit
	$(VENV)-audit/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/audit.txt
	@touch $@

$(VENV)-clients/.done: requirements/clients.txt
	$(PYTHON) -m venv $(VENV)-clients
	$(VENV)-clients/bin/python -m pip --disable-pip-version-check --quiet install --require-hashes -r requirements/clients.txt
	@touch $@

$(NODE)/node_modules/.done: $(NODE)/package-lock.json
	cd $(NODE) && npm ci --ignore-scripts
	@touch $@
