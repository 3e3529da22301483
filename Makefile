# make demo: sets up and shows VGF beside its rivals on the toy bandit.  make test: sets up and runs all checks.
# where pythonX.Y is, asked of itself: what pyenv puts on the path runs only the versions that it is told
found = $(shell PYENV_VERSION=$(1) python$(1) -c 'import sys; print(sys.executable)' 2>/dev/null)
PYTHON ?= $(or $(call found,3.11),$(call found,3.12),$(shell command -v python3))
PYTHON312 ?= $(call found,3.12)
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/python -m pip --disable-pip-version-check -q
BASE := .venv-base
VENV312 := .venv312
# one more than two cores, as many tests wait for processes of their own; each collects all tests, which takes a while
WORKERS ?= 3

.PHONY: demo test test-all test-base test-312 wheel soak calibrate lint format clean

demo: $(VENV)/.run
	$(BIN)/python -m harness.run
	$(BIN)/python -m analysis.tables results/
	$(BIN)/python -m analysis.plots results/

test: $(VENV)/.dev lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal

test-all: $(VENV)/.dev lint
	$(BIN)/python -m pytest -n $(WORKERS) --dist worksteal -m "slow or not slow"
	$(MAKE) test-base test-312

# the wheel, installed without extras, used outside this folder
test-base: $(VENV)/.dev wheel $(BASE)/.ready
	$(BASE)/bin/python -m pip --disable-pip-version-check -q install --no-deps --force-reinstall build/*.whl
	BASE_PYTHON=$(BASE)/bin/python $(BIN)/python -m pytest -n0 tests/base_install.py

# the quick tests on Python 3.12 with the next jax, without extras
ifeq ($(PYTHON312),)
test-312:
	@echo "test-312: skipped, as there is no python3.12 here"
else
test-312: $(VENV312)/.ready
	$(VENV312)/bin/python -m pytest -n $(WORKERS) --dist worksteal
endif

# from a copy: what earlier builds left behind does not get in
wheel: $(VENV)/.dev
	rm -rf build
	mkdir -p build/source
	cp -R core methods harness tasks analysis pyproject.toml README.md LICENSE build/source
	$(PIP) wheel --no-deps -w build build/source
	rm -rf build/source

# kill -9, a hundred times: about half an hour
soak: $(VENV)/.dev
	$(BIN)/python -m tests.soak

# how often tests err and intervals cover: the tables of docs/analysis.md, about twenty minutes
calibrate: $(VENV)/.dev
	$(BIN)/python -m tests.analysis.calibrate

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

$(BASE)/.ready: pyproject.toml constraints.txt | wheel
	rm -rf $(BASE)
	$(PYTHON) -m venv $(BASE)
	$(BASE)/bin/python -m pip --disable-pip-version-check -q install -c constraints.txt build/*.whl
	@touch $@

$(VENV312)/.ready: pyproject.toml constraints.txt
	rm -rf $(VENV312)
	$(PYTHON312) -m venv $(VENV312)
	grep -vE '^jax(lib)?==' constraints.txt > $(VENV312)/constraints.txt
	$(VENV312)/bin/python -m pip --disable-pip-version-check -q install -c $(VENV312)/constraints.txt \
	  -e '.[test]' 'jax>=0.11,<0.12'
	@touch $@

clean:
	rm -rf $(VENV) $(BASE) $(VENV312) build *.egg-info .pytest_cache .hypothesis .mypy_cache .ruff_cache
