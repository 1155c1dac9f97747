# The two commands: `make demo` and `make test`. Each makes the virtual environment it needs.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.hepflow-installed
# Where pip can find a CPU build of this version it is taken (it is a tenth of the size); else plain torch.
TORCH_CPU ?= 2.13.0+cpu
# Processes that run tests. Many tests wait for jobs and workers.
TESTERS ?= 2

.PHONY: help install demo test fast lint clean

help:
	@echo "make demo   simulate, ingest, features, train, evaluate; ends with a table and a report"
	@echo "make test   all tests"
	@echo "make fast   the tests that take under a minute together"
	@echo "make lint   ruff and mypy"
	@echo "make clean  remove the virtual environment and the demo's output"

install: $(READY)

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hepflow needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed. On Debian: apt install python3-venv" >&2; exit 2; }
	$(BIN)/pip install --quiet --upgrade 'pip>=24'
	@$(BIN)/python -c 'import torch' 2>/dev/null \
		|| $(BIN)/pip install --quiet 'torch==$(TORCH_CPU)' 2>/dev/null \
		|| $(BIN)/pip install 'torch>=2.6'
	@$(BIN)/python -c 'import torch; print("torch==" + torch.__version__)' > $(VENV)/torch.txt
	$(BIN)/pip install --quiet --constraint $(VENV)/torch.txt --editable '.[all,test]'
	@touch $@

demo: install
	$(BIN)/hepflow demo

test: install
	$(BIN)/python -m pytest --numprocesses $(TESTERS) --dist loadfile

fast: install
	$(BIN)/python -m pytest -m 'not slow'

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

clean:
	rm -rf $(VENV) demo
