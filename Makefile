# make demo: install and run the main job on the demo recipe. make test: install and run the tests.
PYTHON ?= python3
BIN := .venv/bin
# CPU torch by default. For a GPU: make demo TORCH_INDEX=https://pypi.org/simple
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0

.PHONY: demo test lint types contracts wheel clean

demo: .venv/installed
	$(BIN)/stillhouse run recipes/demo.yaml

test: .venv/installed
	$(BIN)/pytest

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

contracts: .venv/installed
	$(BIN)/lint-imports

# Builds the wheel and tries it in an empty environment outside the checkout.
wheel: .venv/installed
	.ci/try_wheel

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps --extra-index-url $(TORCH_INDEX) $(TORCH)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

# Leaves runs/ alone: teacher answers were paid for.
clean:
	rm -rf .venv dist build .mypy_cache .ruff_cache .pytest_cache
