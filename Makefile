# `make demo` and `make test` are all a fresh machine needs: Python 3.11 or newer, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs-installed

.PHONY: demo test check bench docs install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt setup.py serving/model/trees.c
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"tidemill needs Python 3.11 to 3.13, this is {v.major}.{v.minor}: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[kafka,demo,dev]'
	@$(BIN)/python -c 'import lightgbm' 2>/dev/null || { echo 'LightGBM needs the OpenMP runtime libgomp.so.1, which slim images lack: apt-get install libgomp1, or dnf install libgomp'; exit 1; }
	@touch $(STAMP)

demo: install
	$(BIN)/tidemill demo $(ARGS)

test: install
	$(BIN)/pytest $(ARGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python -m benchmarks $(ARGS)

$(DOCS_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $(DOCS_STAMP)

docs: $(DOCS_STAMP)
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env --doctree-dir build/doctrees --builder html docs build/docs $(ARGS)
	@echo 'open build/docs/index.html'

clean:
	rm -rf $(VENV) build dist serving/model/*.so *.egg-info .mypy_cache .ruff_cache .pytest_cache .tidemill
