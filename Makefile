# make demo: sets up and shows VGF beside its rivals on the toy bandit.  make test: sets up and runs all checks.
PYTHON ?= $(shell command -v python3.11 || command -v python3.12 || command -v python3)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
# twice two cores: many tests wait for processes of their own
WORKERS ?= 4

.PHONY: demo test test-all soak lint format clean

demo: $(VENV)/.run
	$(BIN)/python -m harness.run
	$(BIN)/python -m analysis.tables results/
	$(BIN)/python -m analysis.plots results/

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-all: $(VENV)/.dev lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "slow or not slow"

# kill -9, a hundred times: about half an hour
soak: $(VENV)/.dev
	$(BIN)/python -m tests.soak

lint: $(VENV)/.dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

format: $(VENV)/.dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

$(VENV)/bin/python:
	$(PYTHON) -m venv $(VENV)

$(VENV)/.run: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e .
	@touch $@

$(VENV)/.dev: $(VENV)/bin/python pyproject.toml constraints.txt
	$(PIP) install -c constraints.txt -e '.[dev]'
	@touch $@ $(VENV)/.run

clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
