# What the README names, and what keeps the workshop in order. `make help` lists it.

VENV := .venv
BIN := $(VENV)/bin
# Written last: whatever interrupts an installation, it is not taken for a whole one.
STAMP := $(VENV)/.installed
UNFINISHED := $(VENV)/.installing
# The article's Keras script has an environment of its own, with nothing in it but this.
KERAS := .venv-keras
TENSORFLOW := tensorflow-cpu==2.21.0
BENCHMARKS := $(filter-out %/measuring.py %/epochs.py %/summary.py %/keras_article.py %/recipes.py,$(wildcard experiments/speed/*.py))
RECIPES := mnist_fast cifar_fast cifar_fast_wide
# The first of these that is Python 3.11 or newer creates the environment; `make PYTHON=/path/to/python` names another.
PYTHON = python3 python3.13 python3.12 python3.11

# Each with one thread.
WORKERS := 2

.DEFAULT_GOAL := help
.DELETE_ON_ERROR:
.PHONY: help install train test check format docs bench bench-keras bench-recipes constraints clean

help: ## list these commands
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "make %-13s %s\n", $$1, $$2 }' Makefile

install: $(STAMP) ## create .venv and install the package and its tools (several GB, mostly torch)

train: ARGS ?= experiment=digits_cnn
train: $(STAMP) ## train on the digits, or on what ARGS="experiment=mnist_cnn seed=1" says
	@$(BIN)/python -m medvision.train $(ARGS)

test: $(STAMP) ## run all tests, or what ARGS='-m "not slow"' selects, in WORKERS=2 processes
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile $(ARGS)

check: $(STAMP) ## lint, formatting, types, spelling, import rules
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/codespell
	$(BIN)/python -m pytest -q tests/test_imports.py

format: $(STAMP) ## format the code and mend what the linter can mend
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

docs: $(STAMP) ## build the manual as a site in build/docs, warnings as errors
	@$(BIN)/python -m sphinx -q -W --keep-going docs build/docs
	@echo build/docs/index.html

bench: $(STAMP) ## run the benchmarks in experiments/speed, on a machine that does nothing else
	@for script in $(BENCHMARKS); do echo "$$script"; $(BIN)/python -W ignore "$$script" || exit 1; done
	$(BIN)/python experiments/speed/summary.py

bench-keras: $(STAMP) $(KERAS)/.installed ## time to 99.0 % on MNIST over the article's Keras script (1.6 GB more)
	$(BIN)/python -W ignore experiments/speed/keras_mnist.py
	$(BIN)/python experiments/speed/summary.py

bench-recipes: $(STAMP) ## accuracy and time of the fast recipes over several seeds (an hour and a half)
	@for recipe in $(RECIPES); do echo "$$recipe"; $(BIN)/python -W ignore experiments/speed/recipes.py $$recipe || exit 1; done
	$(BIN)/python experiments/speed/summary.py

constraints: $(STAMP) ## look up the newest versions that fit together and write constraints.txt
	$(BIN)/uv pip compile pyproject.toml --extra dev --output-file constraints.txt --upgrade --quiet \
	  --universal --python-version 3.11 --fork-strategy fewest \
	  --no-header --no-annotate --no-emit-index-url --no-emit-find-links

clean: ## remove .venv, .venv-keras, caches and builds; data/, outputs/ and multirun/ stay
	rm -rf $(VENV) $(KERAS) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find medvision tests experiments -name __pycache__ -prune -exec rm -rf {} +

# An environment that an interruption left unfinished is built anew: pip takes a half-written package for installed.
$(STAMP): pyproject.toml constraints.txt
	@if [ -e $(UNFINISHED) ] || [ ! -x $(BIN)/python ]; then \
	  for candidate in $(PYTHON); do \
	    if $$candidate -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null; then python=$$candidate; break; fi; \
	  done; \
	  if [ -z "$$python" ]; then \
	    echo 'medvision needs Python 3.11 or newer; tried: $(PYTHON).' >&2; \
	    echo 'Install one, or name it: make PYTHON=/path/to/python' >&2; exit 1; \
	  fi; \
	  if ! $$python -c 'import ensurepip, venv' 2>/dev/null; then \
	    echo "$$python cannot create environments: its venv or ensurepip module is missing." >&2; \
	    echo 'On Debian and Ubuntu: apt install python3-venv' >&2; exit 1; \
	  fi; \
	  echo "Creating $(VENV) with $$python"; \
	  rm -rf $(VENV) && mkdir $(VENV) && touch $(UNFINISHED) && $$python -m venv $(VENV) || exit 1; \
	fi
	@touch $(UNFINISHED)
	$(BIN)/python -m pip install --disable-pip-version-check --constraint constraints.txt --editable '.[dev]'
	@rm $(UNFINISHED) && touch $(STAMP)

$(KERAS)/.installed: | $(STAMP)
	rm -rf $(KERAS) && $(BIN)/python -m venv $(KERAS)
	$(KERAS)/bin/python -m pip install --disable-pip-version-check $(TENSORFLOW)
	@touch $@
