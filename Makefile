# Two commands for a newcomer: `make demo` and `make test`. Both set up .venv first.

PYTHON ?= python3
VENV   ?= .venv
OUT    ?= demo-output
# The pair the tests run with. Another build: make setup TORCH="torch torchvision --index-url URL"
TORCH  ?= torch==2.14.1 torchvision==0.29.1

JOBS   ?= 2
FAST_TESTS := tests/unit/image tests/unit/measure tests/unit/editor tests/unit/journal tests/unit/agreement \
	tests/unit/io tests/unit/test_errors.py tests/unit/test_geometry.py tests/unit/test_types.py \
	tests/unit/test_settings.py tests/unit/test_imports.py

BIN  := $(VENV)/bin
PIP  := $(BIN)/python -m pip install --disable-pip-version-check --quiet
BASE := $(VENV)/.installed-base
DEV  := $(VENV)/.installed-dev
RELEASE_PIP := build/release/venv/bin/python -m pip install --disable-pip-version-check --quiet

.PHONY: help setup demo test test-fast coverage lint check lock lab bench docs release-check clean
.DEFAULT_GOAL := help

help:  ## say what there is
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/'

# sam2 is a source distribution that builds against torch: torch goes first, and build
# isolation is off so that a second torch is not downloaded. Its CUDA extension is optional.
$(BASE): pyproject.toml Makefile
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV) || { \
	  echo "Could not make $(VENV). Python 3.10 or newer with its venv module is needed (Debian: apt install python3-venv)."; exit 1; }
	@echo "Installing into $(VENV): PyTorch first, then SAM2, then ctai_sam2 (some minutes the first time)."
	$(PIP) $(TORCH)
	$(PIP) setuptools wheel
	SAM2_BUILD_CUDA=0 $(PIP) --no-build-isolation "sam2>=1.0"
	$(PIP) --editable .
	@touch $@

$(DEV): $(BASE)
	$(PIP) --editable ".[all,dev]"
	@touch $@

setup: $(DEV)  ## install everything into .venv

demo: $(BASE)  ## one click on a CT study: make demo [STUDY=folder-or-file] [OUT=demo-output]
	$(BIN)/ctai-sam2 demo --out "$(OUT)" $(if $(STUDY),--study "$(STUDY)")

# Two processes share two cores best when each computes in one thread; masks do not depend on it. The tests start
# a hundred processes: bytecode is kept, even where the environment says no.
PYTEST := env OMP_NUM_THREADS=1 PYTHONDONTWRITEBYTECODE= $(BIN)/python -m pytest -n $(JOBS) --dist loadfile

test: $(DEV)  ## run all tests: make test [JOBS=2]
	$(PYTEST)

test-fast: $(DEV)  ## the tests of the rooms without models, browser and service
	$(PYTEST) -q $(FAST_TESTS)

coverage: $(DEV)  ## run all tests, report the lines they miss; under 92 % it fails
	$(PYTEST) --cov=ctai_sam2 --cov-report=term-missing:skip-covered

check: lint docs test  ## what continuous integration runs: lint, types, documentation, all tests

lint: $(DEV)  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/python -m mypy

lock: $(DEV)  ## write the image's locked requirements with hashes: make lock [UPGRADE=--upgrade]
	PATH="$(abspath $(BIN)):$$PATH" $(BIN)/python docker/lock.py $(UPGRADE)

lab: $(DEV)  ## open JupyterLab on the notebooks
	$(BIN)/jupyter lab notebooks

bench: $(DEV)  ## timings as ratios in one run, held against the stored ones; keep new ones: make bench STORE=--store
	$(BIN)/python -m benchmarks $(STORE)

docs: $(DEV)  ## build the documentation site into build/site; a broken link stops it
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

# Run from a folder that is not the source tree, so that what was installed is what is tried.
release-check: $(DEV)  ## build wheel and sdist, install the wheel into an empty environment, try it there
	rm -rf build/release && mkdir -p build/release/elsewhere
	$(BIN)/python -m build --outdir build/release/dist .
	$(PYTHON) -m venv build/release/venv
	$(RELEASE_PIP) $(TORCH)
	$(RELEASE_PIP) setuptools wheel
	SAM2_BUILD_CUDA=0 $(RELEASE_PIP) --no-build-isolation "sam2>=1.0"
	$(RELEASE_PIP) build/release/dist/*.whl
	cd build/release/elsewhere && env -u PYTHONPATH sh -eu -c '\
	  ../venv/bin/python -m pip check; \
	  ../venv/bin/ctai-sam2 doctor; \
	  ../venv/bin/ctai-sam2 demo --out demo; \
	  test -s demo/measurements.csv'

clean:  ## remove what make made
	rm -rf $(VENV) $(OUT) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
