# `make demo` and `make test` are all a fresh machine needs: Python 3.11 or newer, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.docs-installed

# One embedded Kafka for each worker (0.35 GB); a broker that is given serves one worker. Four of
# them keep two cores busy: tests on a real Kafka wait for most of their time.
WORKERS ?= $(if $(KAFKA_BOOTSTRAP_SERVERS),0,4)
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal
SLOWEST := --durations 15 --durations-min 5
SHARE ?= 1/1
SHARE_OF := $(subst /, ,$(SHARE))
SOAK := -m 'soak or deep' --hypothesis-profile soak --durations-path tests/soak_weights.json

.PHONY: install help demo fast test soak soak-weights check format bench docs wheel clean

install: $(STAMP)  ## Make .venv with the package and all its tools (the default)

help:  ## List these targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): pyproject.toml constraints.txt setup.py src/tidemill/__init__.py serving/model/trees.c
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"tidemill needs Python 3.11 to 3.13, this is {v.major}.{v.minor}: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[kafka,demo,dev]'
	@$(BIN)/python -c 'import lightgbm' 2>/dev/null || { echo 'LightGBM needs the OpenMP runtime libgomp.so.1, which slim images lack: apt-get install libgomp1, or dnf install libgomp'; exit 1; }
	@touch $(STAMP)

demo: install  ## Play a year of real flights through the whole loop
	$(BIN)/tidemill demo $(ARGS)

fast: install  ## Run what needs no broker and is short
	$(PYTEST) -m 'not (kafka or slow or soak or deep)' --hypothesis-profile fast $(ARGS)

test: install  ## Run all tests but the soak; ARGS=... is passed to pytest
	$(PYTEST) -m 'not soak' $(SLOWEST) $(ARGS)

soak: install $(DOCS_STAMP)  ## Run the long proofs, or a share of them: SHARE=2/6
	@echo 'Share $(SHARE) of the soak; repeat it with: make soak SHARE=$(SHARE)'
	$(PYTEST) $(SOAK) $(SLOWEST) --splits $(word 2,$(SHARE_OF)) --group $(word 1,$(SHARE_OF)) --splitting-algorithm least_duration $(ARGS)

soak-weights: install $(DOCS_STAMP)  ## Measure how long each test of the soak takes
	$(PYTEST) $(SOAK) --store-durations --clean-durations $(ARGS)

check: install  ## Check format, lint, types and import contracts
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

format: install  ## Format the code and sort its imports
	$(BIN)/ruff check --fix-only .
	$(BIN)/ruff format .

bench: install  ## Measure the figures of docs/benchmarks.md
	$(BIN)/python -m benchmarks $(ARGS)

$(DOCS_STAMP): $(STAMP)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[docs]'
	@touch $(DOCS_STAMP)

docs: $(DOCS_STAMP)  ## Build the site into build/docs
	$(BIN)/python -m sphinx --quiet --fail-on-warning --keep-going --fresh-env --doctree-dir build/doctrees --builder html docs build/docs $(ARGS)
	@echo 'open build/docs/index.html'

wheel: install  ## Build sdist and wheel into dist/
	$(BIN)/python -m build --no-isolation

clean:  ## Remove everything that can be made again
	rm -rf $(VENV) .venv-3.* build dist serving/model/*.so *.egg-info .mypy_cache .ruff_cache .pytest_cache .tidemill
