# `make demo` and `make test` are all a fresh machine needs: Python 3.11 or newer, nothing else.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed

# One embedded Kafka for each worker; a broker that is given serves one worker.
WORKERS ?= $(if $(KAFKA_BOOTSTRAP_SERVERS),0,2)
PYTEST := $(BIN)/pytest --numprocesses $(WORKERS) --dist worksteal
SLOWEST := --durations 15 --durations-min 5
SHARE ?= 1/1
SHARE_OF := $(subst /, ,$(SHARE))
SOAK := -m 'soak or deep' --hypothesis-profile soak --durations-path tests/soak_weights.json

.PHONY: demo fast test soak soak-weights check bench install clean

install: $(STAMP)

$(STAMP): pyproject.toml constraints.txt setup.py serving/model/trees.c
	@$(PYTHON) -c 'import sys; v = sys.version_info; sys.exit(0 if (3, 11) <= v < (3, 14) else f"tidemill needs Python 3.11 to 3.13, this is {v.major}.{v.minor}: make PYTHON=python3.11 $(MAKECMDGOALS)")'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install --quiet --disable-pip-version-check --constraint constraints.txt --editable '.[kafka,demo,dev]'
	@$(BIN)/python -c 'import lightgbm' 2>/dev/null || { echo 'LightGBM needs the OpenMP runtime libgomp.so.1, which slim images lack: apt-get install libgomp1, or dnf install libgomp'; exit 1; }
	@touch $(STAMP)

demo: install
	$(BIN)/tidemill demo $(ARGS)

fast: install
	$(PYTEST) -m 'not (kafka or slow or soak or deep)' --hypothesis-profile fast $(ARGS)

test: install
	$(PYTEST) -m 'not soak' $(SLOWEST) $(ARGS)

soak: install
	@echo 'Share $(SHARE) of the soak; repeat it with: make soak SHARE=$(SHARE)'
	$(PYTEST) $(SOAK) $(SLOWEST) --splits $(word 2,$(SHARE_OF)) --group $(word 1,$(SHARE_OF)) --splitting-algorithm least_duration $(ARGS)

soak-weights: install
	$(PYTEST) $(SOAK) --store-durations --clean-durations $(ARGS)

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports

bench: install
	$(BIN)/python -m benchmarks $(ARGS)

clean:
	rm -rf $(VENV) build dist serving/model/*.so *.egg-info .mypy_cache .ruff_cache .pytest_cache .tidemill
