# `make` alone lists the targets. Settings (docs/CONFIGURATION.md) may stand before or after: make run PORT=8001
SHELL := /bin/sh
.DEFAULT_GOAL := help
VENV := .venv
BIN := $(VENV)/bin
DEMO_HOME = $(or $(LOCKSTEP_HOME),data-demo)
TESTS ?= tests
TESTS_AT_ONCE ?= 3
export VENV

.PHONY: help demo run code test test-postgres chaos bench lint audit format picture requirements clean

help:
	@echo 'make demo          try Lockstep: a sample organization and a local stand-in for AWS'
	@echo 'make code USER=alice   the current MFA code of a sample user'
	@echo 'make run           run Lockstep for real'
	@echo 'make test          every test (TESTS=tests/unit for some)'
	@echo 'make test-postgres   the tests of web, services and worker on a private PostgreSQL'
	@echo 'make chaos         kill, fill and lose everything for ten minutes (SECONDS=…, SEED=…)'
	@echo 'make bench         how fast it is, in 15 minutes (FIGURES=1,4 some; WRITE=1 into docs/PERFORMANCE.md)'
	@echo 'make lint          ruff and mypy'
	@echo 'make audit         ask which pinned packages have known vulnerabilities (needs a network)'
	@echo 'make format        let ruff format the code'
	@echo 'make picture       take the picture in the README anew (docs/run-page.png)'
	@echo 'make requirements  compile requirements*.in into requirements*.txt'
	@echo 'make clean         remove what was made here, except data folders'

demo: $(VENV)/.dev
	@exec $(BIN)/python -m deploy.launch --demo

run: $(VENV)/.run
	@exec $(BIN)/python -m deploy.launch

# USER is set in every shell: only one given to make counts.
code: $(VENV)/.dev
	@case '$(origin USER)' in command*) ;; *) echo 'Say whose code: make code USER=alice' >&2; exit 2;; esac
	@$(BIN)/python -m demo.aws code '$(USER)' --state '$(DEMO_HOME)/aws'

# One worker more than CI has processors: a test that waits for a page, terraform or a clock leaves its own to another.
test: $(VENV)/.dev
	@$(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist loadgroup $(TESTS)

# What goes through the database, without what takes minutes and asks PostgreSQL nothing new: the real AWS provider,
# the browser, the launcher. Tests that ask for no database leave themselves out (tests/conftest.py).
test-postgres: POSTGRES_TESTS ?= tests/web tests/services tests/worker tests/unit/services tests/unit/storage tests/unit/test_migrations.py
test-postgres: $(VENV)/.dev
	@LOCKSTEP_TEST_DATABASE=postgresql $(BIN)/python -m pytest -n $(TESTS_AT_ONCE) --dist loadgroup \
	    -m 'not aws and not browser and not stack' $(POSTGRES_TESTS)

# Real processes and real terraform; a failed one keeps its folder with all logs. SEED repeats one, as far as time allows.
chaos: SECONDS ?= 600
chaos: ENVIRONMENTS ?= 6
chaos: $(VENV)/.dev
	@$(BIN)/python -m tests.chaos --seconds $(SECONDS) $(if $(SEED),--seed $(SEED)) --environments $(ENVIRONMENTS)

# Take figures on a machine that does nothing else.
bench: $(VENV)/.dev
	@$(BIN)/python -m bench $(if $(FIGURES),--figures $(FIGURES)) $(if $(WRITE),--write)

lint: $(VENV)/.dev
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check --output-format concise .
	@$(BIN)/mypy .
	@$(BIN)/mypy --strict policy services

# The list of vulnerabilities is PyPI's, so this is no part of lint. pip-audit is needed for nothing else.
audit: $(VENV)/.run
	@set -e; tool=$$(mktemp -d); trap 'rm -rf "$$tool"' EXIT; \
	$(BIN)/python -m venv "$$tool"; "$$tool/bin/pip" install --quiet --disable-pip-version-check pip-audit; \
	"$$tool/bin/pip-audit" --strict --no-deps --disable-pip -r requirements.txt

format: $(VENV)/.dev
	@$(BIN)/ruff check --fix-only --quiet .
	@$(BIN)/ruff format .

picture: $(VENV)/.dev
	@$(BIN)/python -m pytest -q tests/browser/test_stories.py -k assume_role
	@cp test-artifacts/run-page.png docs/run-page.png

# uv resolves for all platforms at once; it is needed for nothing else and lives in a folder that goes away again.
requirements: $(VENV)/.run
	@set -e; uv=$$(mktemp -d); trap 'rm -rf "$$uv"' EXIT; \
	$(BIN)/python -m venv "$$uv"; "$$uv/bin/pip" install --quiet --disable-pip-version-check uv; \
	for name in requirements requirements-dev; do \
	    "$$uv/bin/uv" pip compile --quiet --universal --python-version 3.11 $(UPGRADE) -o $$name.txt $$name.in; \
	done

clean:
	@rm -rf $(VENV) .mypy_cache .pytest_cache .ruff_cache .hypothesis .coverage test-artifacts
	@find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The stamps: installing happens once, and again when a requirements file changes.
$(VENV)/.run: requirements.txt
	@deploy/venv.sh requirements.txt
	@touch $@

$(VENV)/.dev: requirements.txt requirements-dev.txt
	@deploy/venv.sh requirements-dev.txt
	@touch $@ $(VENV)/.run
