# Two commands on a fresh machine: make demo, make test. Each sets up what it needs in .venv.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin

.PHONY: demo test check bench clean

$(BIN)/python:
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo "nestforge needs Python 3.11 or newer; run make PYTHON=/path/to/python3.11"; exit 1; }
	$(PYTHON) -m venv $(VENV)

# What is installed is remembered by a stamp a set of extras; pyproject.toml decides when it is stale.
$(VENV)/.installed: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e .
	@touch $@

$(VENV)/.installed-dev: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[torch,dev]'
	@touch $@ $(VENV)/.installed

$(VENV)/.installed-bench: $(BIN)/python pyproject.toml
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[torch,bench]'
	@touch $@ $(VENV)/.installed

demo: $(VENV)/.installed
	$(BIN)/python examples/demo.py

test: $(VENV)/.installed-dev
	$(BIN)/python -m pytest

check: $(VENV)/.installed-dev
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/python -m pytest tests/test_layering.py

# PHOTOS=folder calibrates on photographs; without it on generated images. An hour and more; alone on the machine.
bench: $(VENV)/.installed-bench
	$(BIN)/python -m benchmarks.speed.contenders $(if $(PHOTOS),--photos $(PHOTOS))
	$(BIN)/python -m benchmarks.speed.tables

clean:
	rm -rf $(VENV) demo .mypy_cache .pytest_cache .ruff_cache
