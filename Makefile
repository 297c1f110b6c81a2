# `make demo` and `make test` set everything up on a machine with Python 3.11 or newer.

VENV ?= .venv
PYTHON ?= python3
CORES ?= all
CONFIG ?= config/config.yaml
JOBS ?= $(shell nproc)
BIN := $(VENV)/bin
INSTALL := $(BIN)/python -m pip install --quiet --constraint constraints.txt --editable
SNAKEMAKE := $(BIN)/snakemake --cores $(CORES)
REPORT := results/demo/report.html
LOCK := .lock.json

.PHONY: demo test test-long test-slurm lint docs bench plan lock clean

demo: $(VENV)/.ready ## the study on FONTS, from font files to figures and verdicts
	ROBUSTGEN_SUMMARY=no $(SNAKEMAKE)
	$(SNAKEMAKE) --report $(REPORT)
	@$(BIN)/python -m robustgen.closing results/demo

test: $(VENV)/.ready-test browser ## what must pass before every commit
	$(BIN)/python -m pytest --numprocesses 2

test-long: $(VENV)/.ready-test browser ## what takes minutes; needs the extra paper-fonts
	$(INSTALL) '.[paper-fonts]'
	$(BIN)/python -m pytest -m long

test-slurm: $(VENV)/.ready-test $(VENV)/.ready-slurm cluster ## the study on a SLURM of one node
	$(BIN)/python -m pytest -m slurm -rs

lint: $(VENV)/.ready-lint ## style and types
	$(BIN)/ruff check
	$(BIN)/ruff format --check
	$(BIN)/snakefmt --line-length 100 --check Snakefile workflow/rules
	$(BIN)/mypy

docs: $(VENV)/.ready-docs ## the documentation, as pages that need no network
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict
	@echo "documentation: $(abspath site/index.html)"

bench: $(VENV)/.ready-bench ## attacks, training and distances beside others, on this machine
	$(BIN)/python -m pip install --quiet --no-deps torchattacks==3.5.1
	$(BIN)/python benchmarks/bench.py results/benchmarks

plan: $(VENV)/.ready ## how long what is left of a study will take here, or at other speeds
	@$(BIN)/python -m robustgen.plan --configfile $(CONFIG) --cores $(JOBS) $(if $(SPEEDS),--speeds $(SPEEDS))

lock: ## resolve constraints.txt anew from the ranges in pyproject.toml
	$(PYTHON) -m pip install --quiet --dry-run --ignore-installed --report $(LOCK) '.[paper-fonts,test,lint,docs,slurm,bench]'
	$(PYTHON) tests/lock.py $(LOCK) > constraints.txt
	rm $(LOCK)

clean: ## remove the environment, not the results
	rm -rf $(VENV)

$(VENV)/.ready: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	@echo "installing Python packages into $(VENV): 6 GB, some minutes"
	$(PYTHON) -m venv $(VENV)
	$(INSTALL) .
	touch $@

$(VENV)/.ready-%: $(VENV)/.ready
	$(INSTALL) '.[$*]'
	touch $@

# SLURM's daemons are started by the tests, and stopped.
.PHONY: cluster
cluster:
	@command -v slurmctld >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null && apt-get update -qq \
	       && apt-get install -qq -y --no-install-recommends slurm-wlm munge >/dev/null; } \
	  || echo "no SLURM: its tests will be skipped"

# The report is tested in a real browser, which is installed where this may be done.
.PHONY: browser
browser:
	@{ command -v chromium || command -v chromium-browser; } >/dev/null \
	    && command -v chromedriver >/dev/null \
	  || { [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null \
	       && apt-get update -qq && apt-get install -qq -y --no-install-recommends chromium chromium-driver >/dev/null; } \
	  || echo "no chromium: the test of the report will be skipped"
