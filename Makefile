# Each target makes what it needs from nothing, and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# a worker with one thread for each core; tests of a file stay together, and those that start Ray
PARALLEL := -n auto --maxprocesses 8 --dist loadgroup

.PHONY: install demo test test-all lint bench torture clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[test,lint]'
	touch $@

demo: install
	$(BIN)/rna-watch demo

test: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest -m 'not slow' $(PARALLEL)

test-all: install
	OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

bench: install
	$(BIN)/python -m tests.benchmarks $(if $(SMALL),--small)

torture: install
	$(BIN)/python -m tests.torture --points $(if $(POINTS),$(POINTS),2000)

clean:
	rm -rf $(VENV)
