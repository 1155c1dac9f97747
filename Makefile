# The two main commands: `make demo` and `make test`. Each creates the virtual environment first.
VENV   ?= .venv
PYTHON ?= python3
BIN    := $(VENV)/bin
READY  := $(VENV)/.hepflow-installed
# Test processes. Each starts servers, Spark and commands of its own: on 2 cores, 2 processes take
# 9 minutes and 3 take 11.
TESTERS ?= 2
# Tested versions, with hashes; `make test CONSTRAINTS=` installs the newest versions.
CONSTRAINTS ?= constraints.txt
# A torch in .venv is kept. Otherwise a CPU build if pip finds one (a tenth of the size), else PyPI's.
TORCH  ?= $(shell sed -n 's/^torch==\([^ ]*\).*/\1/p' constraints.txt)
# With what torch brings along: one of these is there before the rest.
OF_TORCH := torch|triton|(nvidia|cuda)-[a-z0-9-]+
LOWEST := .venv-lowest
TOOLS  := .venv-tools
# Compiled Python of hepflow/ and tests/ is kept: some hundred processes import it.
export PYTHONDONTWRITEBYTECODE =
PYTEST  = $(BIN)/python -m pytest --numprocesses $(TESTERS) --dist loadfile --no-loadscope-reorder

.PHONY: help install demo test fast system fuzz coverage servers lint docs lowest constraints sbom clean

help:
	@echo "make install      only the virtual environment, .venv; the others create it too"
	@echo "make demo         simulate, ingest, features, train, evaluate; ends with a table and a report"
	@echo "make test         the tests: every fact once"
	@echo "make fast         those of them that are not marked slow"
	@echo "make system       all tests: every cluster and mode, kills, notebooks, more random examples"
	@echo "make fuzz         20,000 mutated files to the readers: an hour; FUZZ=100000 for more"
	@echo "make servers      the jars of HDFS, YARN and Kafka (Maven), which tests use if they are there"
	@echo "make lint         ruff, mypy and repo-review"
	@echo "make docs         the pages under docs/ and the Python API, as build/docs/index.html"
	@echo "make coverage     all tests, and the lines of hepflow/ that they miss"
	@echo "make lowest       the fast tests with the lowest versions that pyproject.toml allows"
	@echo "make constraints  update constraints.txt from the installed versions"
	@echo "make sbom         a bill of materials of the virtual environment, build/hepflow.cdx.json"
	@echo "make clean        remove the virtual environments, the pages and the demo's output"

install: $(READY)

$(READY): pyproject.toml $(CONSTRAINTS)
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || { echo "hepflow needs Python 3.11 or newer, and $(PYTHON) is $$($(PYTHON) --version). Try: make $(MAKECMDGOALS) PYTHON=python3.12" >&2; exit 2; }
	@test -x $(BIN)/pip || $(PYTHON) -m venv $(VENV) || { echo "python3 -m venv failed. On Debian: apt install python3-venv" >&2; exit 2; }
	@$(BIN)/pip install --quiet --upgrade 'pip>=24'
	@$(BIN)/python -c 'from importlib.metadata import version; version("torch")' 2>/dev/null || { \
		echo "$(VENV): PyTorch first: 200 MB, or gigabytes if pip finds no CPU build"; \
		$(BIN)/pip install --quiet 'torch==$(TORCH)+cpu' 2>/dev/null || $(BIN)/pip install 'torch==$(TORCH)'; }
	@echo "$(VENV): some 200 other packages, 1 GB; pip is silent for a few minutes"
	@awk '/^[^ #]/ { kept = !/^($(OF_TORCH))==/ } kept' $(or $(CONSTRAINTS),/dev/null) > $(VENV)/constraints.txt
	@test ! -s $(VENV)/constraints.txt || $(BIN)/pip install --quiet --require-hashes --no-deps --requirement $(VENV)/constraints.txt
	@$(BIN)/pip install --quiet --editable '.[all,docs,test]' "torch==$$($(BIN)/python -c 'from importlib.metadata import version; print(version("torch"))')"
	@touch $@

demo: install
	$(BIN)/hepflow demo

test: install
	$(PYTEST) -m 'not system'

fast: install
	$(PYTEST) -m 'not slow and not system'

system: install
	HYPOTHESIS_PROFILE=nightly $(PYTEST) -p randomly

# Every night, as `make system`. Always the same inputs, of which `make test` tries the first 300.
FUZZ ?= 20000
fuzz: install
	HEPFLOW_FUZZ=$(FUZZ) $(BIN)/python -m pytest --numprocesses $(TESTERS) --dist load tests/test_hostile_input.py

# Lines of compiled functions are seen where they run as Python, which warns of what overflows.
coverage: install
	$(PYTEST) -m 'not system' --cov --cov-report=
	NUMBA_DISABLE_JIT=1 $(PYTEST) -m 'not slow and not system' --cov --cov-append --cov-report term \
		-W ignore::RuntimeWarning tests/physics tests/simulate

servers: build/hadoop build/kafka build/spark-kafka

build/%: tests/support/%/pom.xml
	mvn --batch-mode --quiet --file $< dependency:copy-dependencies -DoutputDirectory=$(CURDIR)/$@
	@touch $@

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/sp-repo-review . --show err

docs: install
	$(BIN)/sphinx-build --fail-on-warning --keep-going --quiet docs build/docs
	@echo "wrote build/docs/index.html"

# Separate from .venv, and created again each time. Torch is PyPI's CUDA build: some gigabytes.
lowest:
	rm -rf $(LOWEST)
	$(PYTHON) -m venv $(LOWEST)
	$(LOWEST)/bin/pip install --quiet uv
	$(LOWEST)/bin/uv pip install --quiet --python $(LOWEST)/bin/python --resolution lowest-direct --editable '.[all,test]'
	$(LOWEST)/bin/python -m pytest -m 'not slow and not system'

# The versions in .venv, without torch's build tag, and the hashes of all their files.
constraints: install $(TOOLS)/bin/uv
	@$(BIN)/pip freeze --exclude-editable | sed 's/+c[a-z0-9]*$$//' > $(VENV)/versions.txt
	@$(TOOLS)/bin/uv pip compile --quiet --python $(BIN)/python --extra all --extra docs --extra test \
		--constraint $(VENV)/versions.txt --generate-hashes --no-emit-index-url --no-annotate --no-header \
		--output-file $(VENV)/compiled.txt pyproject.toml
	@{ echo '# Versions of the last test run. Update with: make install CONSTRAINTS= && make constraints'; \
		cat $(VENV)/compiled.txt; } > constraints.txt

sbom: install $(TOOLS)/bin/uv
	@mkdir -p build
	$(TOOLS)/bin/cyclonedx-py environment --pyproject pyproject.toml --output-reproducible \
		--output-file build/hepflow.cdx.json $(BIN)/python

$(TOOLS)/bin/uv:
	@$(PYTHON) -m venv $(TOOLS)
	@$(TOOLS)/bin/pip install --quiet uv cyclonedx-bom

clean:
	rm -rf $(VENV) $(LOWEST) $(TOOLS) build demo
