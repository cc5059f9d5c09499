# make demo | test | test-gpu | test-kernels | lint | bench | bench-decode | bench-memory | bench-gpu | bench-quality | soak: each sets up all that it needs. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
GPU_VENV ?= .venv-gpu
CUPY ?= cupy-cuda12x
STANDIN ?=

.PHONY: demo test test-gpu test-kernels lint bench bench-decode bench-memory bench-gpu bench-quality soak clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/gpu-bgstat demo -o demo

test: $(VENV)/.installed
	$(BIN)/pytest -n auto $(PYTEST_OPTIONS)

$(GPU_VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(GPU_VENV)
	$(GPU_VENV)/bin/python -m pip install --quiet --editable '.[dev,gpu]' '$(CUPY)'
	touch $@

# Needs an NVIDIA GPU, or STANDIN="the command that brings a stand-in --".
test-gpu: $(GPU_VENV)/.installed
	BGSTAT_REQUIRE_GPU=1 $(STANDIN) $(GPU_VENV)/bin/python -m pytest -n auto -m gpu $(PYTEST_OPTIONS)

# Compiles every kernel for every architecture. Needs no GPU.
test-kernels: $(GPU_VENV)/.installed
	BGSTAT_REQUIRE_GPU=1 $(GPU_VENV)/bin/python -m pytest -n auto -m nvrtc $(PYTEST_OPTIONS)

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell gpu_bgstat kernels tests bench docs README.md CHANGELOG.md

bench: $(VENV)/.installed
	$(BIN)/python bench/bench_statistics.py

# Peers that are not installed are left out: bench/bench_decode.py says how to get them.
bench-decode: $(VENV)/.installed
	$(BIN)/python bench/bench_decode.py --json bench/decode.json

# 15 GB of scratch file; as root the limit is a control group's.
bench-memory: $(VENV)/.installed
	$(BIN)/python bench/bench_memory.py --json bench/memory.json

bench-gpu: $(GPU_VENV)/.installed
	$(STANDIN) $(GPU_VENV)/bin/python bench/bench_gpu.py

# Every method on every scene with known truth: a quarter of an hour.
bench-quality: $(VENV)/.installed
	$(BIN)/python bench/bench_quality.py --json bench/quality.json --docs docs/quality.md --pictures docs/pictures --speed

# Memory over 20,000 frames from a pipe, and over a camera that drops out again and again. A minute; Linux.
soak: $(VENV)/.installed
	$(BIN)/python bench/soak.py

clean:
	rm -rf $(VENV) $(GPU_VENV) demo dist .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
