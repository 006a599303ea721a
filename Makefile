# Everything runs from a fresh clone with nothing but a Python (3.11 or newer, with venv) and make.
# Another interpreter: `PYTHON=python3.12 make demo`, in a clone without a .venv (or after `make distclean`).

PYTHON ?= python3
VENV := .venv
VENV39 := .venv-tl39
BIN := $(VENV)/bin
# -qq: progress bars and notes about the machine's pip configuration are of no use here; errors still show.
PIP := -m pip install -qq --disable-pip-version-check
INPUTS := pyproject.toml constraints.txt

# Nothing here may wait for a network: models, coders and texts come from this folder.
export HF_HUB_OFFLINE ?= 1

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install dev demo test test-fast test-tl39 test-saelens lint format bench subject build clean distclean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z0-9-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

# -- environments: one stamp per extra, renewed when pyproject.toml or the pins change -----------------

# The target is pip, not python: a venv that could not be finished (no ensurepip) has no pip.
%/bin/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "labeler needs Python 3.11 or newer, and $(PYTHON) is " + sys.version.split()[0] + ": try PYTHON=python3.12 make ...")'
	$(PYTHON) -m venv $*

$(VENV)/.installed-base: $(INPUTS) | $(BIN)/pip
	@echo "Installing labeler into $(VENV) (a minute or two the first time) ..."
	$(BIN)/python $(PIP) -c constraints.txt -e .
	@touch $@

$(VENV)/.installed-test: $(INPUTS) | $(BIN)/pip
	$(BIN)/python $(PIP) -c constraints.txt -e '.[test]'
	@touch $@ $(VENV)/.installed-base

$(VENV)/.installed-dev: $(INPUTS) | $(BIN)/pip
	$(BIN)/python $(PIP) -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.installed-base $(VENV)/.installed-test

# The pins with some lines replaced; pip refuses two files that pin the same package differently.
$(VENV39)/constraints.txt: constraints.txt constraints-tl39.txt | $(VENV39)/bin/pip
	@{ grep -v '^transformer-lens==' constraints.txt; cat constraints-tl39.txt; } > $@

$(VENV39)/.installed: pyproject.toml $(VENV39)/constraints.txt
	$(VENV39)/bin/python $(PIP) -c $(VENV39)/constraints.txt -e '.[test,saelens]'
	@touch $@

install: $(VENV)/.installed-base ## install into .venv, pinned: .venv/bin/labeler

dev: $(VENV)/.installed-dev ## install what contributors need, and the pre-commit hooks
	$(BIN)/pre-commit install

# -- use -----------------------------------------------------------------------------------------------

demo: $(VENV)/.installed-base ## label every latent of the built-in model; ends with the report's place
	$(BIN)/labeler demo

test: $(VENV)/.installed-test ## the whole test suite, slow tests included
	$(BIN)/python -m pytest --durations=10 --durations-min=2

test-fast: $(VENV)/.installed-test ## the tests that take less than half a second each
	$(BIN)/python -m pytest -m 'not slow'

test-tl39: $(VENV39)/.installed ## the whole suite with transformer-lens 3.9 and sae-lens, in .venv-tl39
	$(VENV39)/bin/python -m pytest

test-saelens: $(VENV39)/.installed ## what needs sae-lens: its coders, and hookpoints with transformer-lens 3.9
	$(VENV39)/bin/python -m pytest -q tests/test_saelens.py tests/test_hookpoints.py tests/test_model.py

lint: $(VENV)/.installed-dev ## ruff, its formatter, and strict mypy: report, change nothing
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/mypy

format: $(VENV)/.installed-dev ## let ruff mend what it can and format
	$(BIN)/ruff check --fix
	$(BIN)/ruff format

bench: $(VENV)/.installed-dev ## every benchmarks/bench_*.py, or one: make bench BENCH=benchmarks/bench_x.py
	@for script in $(or $(BENCH),$(wildcard benchmarks/bench_*.py)); do \
	    echo "== $$script"; $(BIN)/python "$$script" || exit 1; done

subject: $(VENV)/.installed-dev ## train the built-in model and its transcoders again (an hour or more)
	$(BIN)/python -m labeler.builtin.train_model
	$(BIN)/python -m labeler.builtin.train_transcoders
	$(BIN)/python -m labeler.builtin.evaluate

# The sdist, the wheel made from the sdist, and the wheel in an environment that has never seen this folder.
build: $(VENV)/.installed-dev ## build sdist and wheel into dist/, and try the wheel in a clean environment
	rm -rf build dist
	$(BIN)/python -m build -q --outdir dist .
	@set -e; place=$$(mktemp -d); trap 'rm -rf "$$place"' EXIT; \
	echo "Installing the wheel into a clean environment ..."; \
	$(PYTHON) -m venv "$$place/venv"; \
	"$$place/venv/bin/python" $(PIP) -c constraints.txt dist/*.whl; \
	cd "$$place"; \
	venv/bin/labeler --help > /dev/null; \
	venv/bin/python -c 'import labeler.functions, labeler.eval'; \
	site=$$(venv/bin/python -c 'import labeler; print(*labeler.__path__)'); \
	cd "$(CURDIR)/labeler"; \
	find -L . -type f ! -path '*/__pycache__/*' ! -name '.*' ! -name '*.tmp' | while read -r file; do \
	    test -f "$$site/$$file" || { echo "not in the wheel: labeler/$$file (see package-data)"; exit 1; }; done; \
	echo "The wheel installs, imports and holds every file of the package."

# -- tidying -------------------------------------------------------------------------------------------

clean: ## remove what was built and the tools' caches (not runs/, not the environments)
	rm -rf build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find labeler functions eval tests benchmarks -name __pycache__ -type d -prune -exec rm -rf {} +

distclean: clean ## remove the environments too
	rm -rf $(VENV) $(VENV39)
