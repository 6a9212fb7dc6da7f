# make quickstart   install into .venv, then train, evaluate and use the tiny model (QUICK=1: two minutes)
# make test         all default tests        make test-all   the slow ones too
# make check        ruff and mypy            make docs       pages that are generated
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
QUICK ?=
OUT ?= runs/quickstart

.PHONY: quickstart test test-all check docs install clean

install: $(VENV)/.installed

$(VENV)/.installed: requirements.txt pyproject.toml
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check "$$(grep '^torch==' requirements.txt)"
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements.txt
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps --editable .
	touch $@

quickstart: install
	$(BIN)/multimodal-ai quickstart --out $(OUT) $(if $(QUICK),--quick)

# benchmarks with data of their own; not for use, so not part of the install
$(VENV)/.evaluation: requirements-evaluation.txt $(VENV)/.installed
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --no-deps -r requirements-evaluation.txt
	touch $@

test: $(VENV)/.evaluation
	$(BIN)/python -m pytest -n 2 --dist loadfile

test-all: $(VENV)/.evaluation
	$(BIN)/python -m pytest -n 2 --dist loadfile -m "slow or not slow"

check: install
	$(BIN)/ruff check .
	$(BIN)/mypy

docs: install
	$(BIN)/python scripts/config_reference.py

clean:
	rm -rf $(VENV) build dist src/*.egg-info
