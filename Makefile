# Every goal does its own set-up: a virtual environment in .venv with the tested set of constraints.txt, and, for all
# but the demo, the developers' tools. A stamp remembers it, so the second call starts at once.
PYTHON ?= python3
WORKERS ?= 2
DEMO ?= demo

VENV := .venv
BIN := $(VENV)/bin
PIP_INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt
# One thread in each test process: the processes are the parallelism.
PYTEST := OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS)
MKDOCS := NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --quiet
BENCHMARKS := gaussian_chain gaussian_grid temperature moments scale

.PHONY: help demo test check format docs bench clean
.DELETE_ON_ERROR:

help:
	@echo "make demo    learn temperature maps and gravel, draw new ones, complete a map, write $(DEMO)/"
	@echo "make test    the fast test suite, without the checks of shapes"
	@echo "make check   all that CI runs: format, lint, layers, types, demo, examples, every test"
	@echo "make format  rewrite the code as check wants it"
	@echo "make docs    the pages of docs/, into site/"
	@echo "make bench   the benchmarks, one table each"
	@echo "make clean   remove the environment, caches and the demo's output"

demo: $(VENV)/run.stamp
	$(BIN)/nearfield demo --out $(DEMO)

test: $(VENV)/dev.stamp
	NEARFIELD_CHECK_SHAPES=0 $(PYTEST) -m "not slow"

# The tests come last, so that the run closes on their count. TIMEFORMAT and `time` are bash's.
check: SHELL := bash
check: .SHELLFLAGS := -euo pipefail -c
check: export TIMEFORMAT = -- %R s
check: export OMP_NUM_THREADS = 1
check: $(VENV)/dev.stamp
	time $(BIN)/ruff format --check src tests benchmarks examples
	time $(BIN)/ruff check src tests benchmarks examples
	time $(BIN)/lint-imports
	time $(BIN)/mypy
	time $(MKDOCS)
	time $(BIN)/nearfield demo --out $(DEMO)
	for example in examples/*.py; do echo "== $$example"; \
	time $(BIN)/python $$example $(DEMO)/$$(basename $$example .py).png; done
	$(PYTEST) -m "slow or not slow" --doctest-modules --durations 10 src tests

format: $(VENV)/dev.stamp
	$(BIN)/ruff format src tests benchmarks examples
	$(BIN)/ruff check --fix src tests benchmarks examples

docs: $(VENV)/dev.stamp
	$(MKDOCS)

bench: $(VENV)/run.stamp
	@set -e; for name in $(BENCHMARKS); do echo "== $$name"; $(BIN)/python -m benchmarks.$$name; done

clean:
	rm -rf $(VENV) $(DEMO) site .pytest_cache .ruff_cache .mypy_cache .import_linter_cache

# Debian ships venv without ensurepip, and the half-made environment that follows says little about why.
$(BIN)/pip:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "nearfield needs Python 3.11 or \
	newer; '$(PYTHON)' is not that. Name another: make PYTHON=python3.12 $(MAKECMDGOALS)" >&2; exit 1; }
	@$(PYTHON) -c 'import venv, ensurepip' 2>/dev/null || { echo "'$(PYTHON)' cannot make virtual environments: its \
	venv or ensurepip module is missing. On Debian and Ubuntu: apt install python3-venv" >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)

$(VENV)/run.stamp: pyproject.toml constraints.txt | $(BIN)/pip
	@echo "Installing nearfield and what it needs into $(VENV): some two minutes, once."
	@$(PIP_INSTALL) --editable .
	@touch $@

$(VENV)/dev.stamp: $(VENV)/run.stamp
	@echo "Installing the developers' tools into $(VENV), once."
	@$(PIP_INSTALL) --editable '.[dev,docs]'
	@touch $@
