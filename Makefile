# Two commands, each complete on a fresh machine with Python ≥ 3.11: make demo, make test.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
PIP := PIP_CONSTRAINT=constraints.txt $(BIN)/python -m pip install --quiet
STAMP := $(VENV)/.installed

PYTEST := HF_HUB_OFFLINE=1 OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n auto --dist loadfile --no-loadscope-reorder

.PHONY: demo test slow lint fast clean

demo: $(STAMP)  ## the quickstart: teacher, student alone, distilled student
	$(BIN)/python train.py

test: $(STAMP)  ## everything that is fast: style, types, tests, doctests; mypy runs beside the tests
	$(MAKE) --jobs=2 fast lint

fast: $(STAMP)
	$(PYTEST) -m "not slow and not network"

slow: $(STAMP)  ## what takes minutes
	$(PYTEST) -m "slow and not network"

lint: $(STAMP)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

# torch first: the constraints name the build that brings no CUDA where that is the one on offer
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(PIP) torch
	$(PIP) --editable '.[dev]'
	touch $@

clean:
	rm -rf $(VENV) outputs multirun .pytest_cache .mypy_cache .ruff_cache
