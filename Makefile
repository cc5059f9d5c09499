# make demo | test | lint | bench: each sets up all that it needs. PYTHON chooses the interpreter.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin

.PHONY: demo test lint bench clean

$(VENV)/.installed: pyproject.toml
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --editable '.[dev]'
	touch $@

demo: $(VENV)/.installed
	$(BIN)/gpu-bgstat demo -o demo

test: $(VENV)/.installed
	$(BIN)/pytest -n auto $(PYTEST_OPTIONS)

lint: $(VENV)/.installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/codespell gpu_bgstat kernels tests bench docs README.md CHANGELOG.md

bench: $(VENV)/.installed
	$(BIN)/python bench/bench_statistics.py

clean:
	rm -rf $(VENV) demo dist .coverage .pytest_cache .mypy_cache .ruff_cache .import_linter_cache
