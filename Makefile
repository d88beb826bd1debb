# Each target makes what it needs from nothing, and is quick the second time.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
# a worker with one thread for each core, and one more, as tests often wait; those that start Ray stay together
WORKERS := $(shell expr $$(getconf _NPROCESSORS_ONLN) + 1)
PARALLEL := -n $(WORKERS) --maxprocesses 8 --dist loadgroup
# else every process of a test compiles the package anew
export PYTHONDONTWRITEBYTECODE :=

.PHONY: install demo test test-all lint bench torture fuzz clean

install: $(INSTALLED)

$(INSTALLED): pyproject.toml constraints.txt setup.py $(wildcard rna_watch/kernels/_*.[ch])
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

fuzz: install
	$(BIN)/python -m tests.fuzz --count $(or $(COUNT),1000000) --seed $(or $(SEED),0)

clean:
	rm -rf $(VENV)
