# The two commands: `make demo` and `make test`. Each makes the virtual environment it needs.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.hepflow-installed
# Processes that run tests. The slow ones wait for jobs and workers; the fast ones do not, and each process imports everything anew.
TESTERS ?= 3
# The versions that the tests are run with; `make test CONSTRAINTS=` takes the newest ones.
CONSTRAINTS ?= constraints.txt
# A torch that is in .venv already stays. Else a CPU build where pip can find one (it is a tenth of the size), else PyPI's.
TORCH  ?= $(shell sed -n 's/^torch==//p' constraints.txt)
LOWEST := .venv-lowest
PYTEST  = $(BIN)/python -m pytest --numprocesses $(TESTERS) --dist loadfile --no-loadscope-reorder

.PHONY: help install demo test fast coverage lint docs lowest constraints clean

help:
	@echo "make install      the virtual environment alone, .venv; the others make it too"
	@echo "make demo   simulate, ingest, features, train, evaluate; ends with a table and a report"
	@echo "make test   all tests"
	@echo "make fast   the tests that are not marked slow"
	@echo "make lint   ruff, mypy and repo-review"
	@echo "make docs   the pages under docs/ and the Python API, as build/docs/index.html"
	@echo "make coverage     all tests, and which lines of hepflow/ they leave out"
	@echo "make lowest       the fast tests with the lowest versions that pyproject.toml allows"
	@echo "make constraints  constraints.txt anew, from what is installed"
	@echo "make clean  remove the virtual environments, the pages and the demo's output"

install: $(READY)

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hepflow needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed. On Debian: apt install python3-venv" >&2; exit 2; }
	@$(BIN)/pip install --quiet --upgrade 'pip>=24'
	@$(BIN)/python -c 'from importlib.metadata import version; version("torch")' 2>/dev/null || { \
		echo "$(VENV): PyTorch first: 200 MB, or gigabytes where pip finds no CPU build"; \
		$(BIN)/pip install --quiet 'torch==$(TORCH)+cpu' 2>/dev/null || $(BIN)/pip install 'torch==$(TORCH)'; }
	@echo "$(VENV): some 200 other packages, 1 GB; pip is silent for a few minutes"
	@sed '/^torch==/d' $(or $(CONSTRAINTS),/dev/null) > $(VENV)/constraints.txt
	@$(BIN)/python -c 'from importlib.metadata import version; print("torch==" + version("torch"))' >> $(VENV)/constraints.txt
	@$(BIN)/pip install --quiet --constraint $(VENV)/constraints.txt --editable '.[all,docs,test]'
	@touch $@

demo: install
	$(BIN)/hepflow demo

test: install
	$(PYTEST)

fast: TESTERS = 2
fast: install
	$(PYTEST) -m 'not slow'

coverage: install
	$(PYTEST) --cov --cov-report term

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/sp-repo-review . --show err

docs: install
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs build/docs
	@echo "wrote build/docs/index.html"

# Apart from .venv, and made anew each time. Torch is the CUDA build of PyPI: some gigabytes.
lowest:
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[all,test]'
	$(LOWEST)/bin/python -m pytest -m 'not slow'

# The versions in .venv, without this package, what builds packages, and torch's mark of its build.
constraints: install
	@{ echo '# The versions that the tests were last run with. Made by: make install CONSTRAINTS= && make constraints'; \
		$(BIN)/pip freeze --exclude-editable --exclude pip --exclude setuptools --exclude wheel | sed 's/+cpu$$//'; } > constraints.txt

clean:
	rm -rf $(VENV) $(LOWEST) build demo
