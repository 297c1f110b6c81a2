# `make demo` and `make test` set everything up on a machine with Python 3.11 or newer.

PYTHON ?= python3
CORES ?= all
# A variable of the shell with this common name does not choose the study; `make plan CONFIG=…` does.
ifneq "$(origin CONFIG)" "command line"
CONFIG := config/config.yaml
endif
JOBS ?= $(shell nproc 2>/dev/null || getconf _NPROCESSORS_ONLN)

# Without an environment in this clone, `make demo` and `make plan` use the active one if this clone
# is installed in it, for example a conda environment.
CLONE := .ci/installed_clone.py
ifeq "$(origin VENV)" "undefined"
VENV := .venv
ifeq "$(wildcard $(VENV)/bin/python)" ""
ACTIVE := $(filter this,$(shell env -u PYTHONPATH -u PYTHONHOME $(PYTHON) $(CLONE) torch snakemake 2>/dev/null))
endif
endif
ifneq "$(words $(VENV))" "1"
$(error VENV is "$(VENV)", but make needs the path of a folder without spaces)
endif

BIN := $(VENV)/bin
READY := $(if $(ACTIVE),,$(VENV)/.ready)
RUN := $(if $(ACTIVE),$(PYTHON),"$(BIN)/python")
INSTALL := "$(BIN)/python" -m pip install --quiet --constraint constraints.txt --editable
# -P: a file in this folder is never imported in place of a package.
SNAKEMAKE := $(RUN) -P -m snakemake --cores $(CORES)
REPORT := results/demo/report.html
LOCK := .lock.json
TWO_WORKERS := --numprocesses 2 --dist worksteal

# Variables with which other modules would be imported, or packages installed elsewhere
unexport PYTHONPATH PYTHONHOME PYTHONSTARTUP PYTHONINSPECT PIP_USER PIP_TARGET PIP_PREFIX

# Snakemake does not start without a cache folder. The user's one may be on a read-only disk.
CACHE := $(shell folder="$${XDG_CACHE_HOME:-$$HOME/.cache}"; \
  { [ "$$XDG_CACHE_HOME" ] || { [ "$$HOME" ] && [ -d "$$HOME" ]; }; } \
  && mkdir -p "$$folder/snakemake" 2>/dev/null && [ -w "$$folder/snakemake" ] && echo usable)
ifneq "$(CACHE)" "usable"
export XDG_CACHE_HOME := $(CURDIR)/.snakemake/cache
export MPLCONFIGDIR := $(XDG_CACHE_HOME)/matplotlib
export TRITON_CACHE_DIR := $(XDG_CACHE_HOME)/triton
endif

ifneq "$(shell case $$(umask) in (*0??) echo usable;; esac)" "usable"
$(error the umask $(shell umask) hides new files from their owner: set another one, such as 022)
endif

.PHONY: demo test test-slow test-long test-slurm mutants lint docs bench bench-strength plan lock clean

demo: $(READY) ## the study on FONTS, from font files to figures and verdicts
	ROBUSTGEN_SUMMARY=no $(SNAKEMAKE)
	$(SNAKEMAKE) --report $(REPORT)
	@$(RUN) -P -m robustgen.jobs.closing results/demo

test: $(VENV)/.ready-test ## what must pass before every commit, with one smoke study
	"$(BIN)/python" -m pytest $(TWO_WORKERS)

test-slow: $(VENV)/.ready-test browser ## further runs of Snakemake, and GPU kernels on the CPU
	"$(BIN)/python" -m pytest $(TWO_WORKERS) -m 'slow and not long'

test-long: $(VENV)/.ready-test ## what takes minutes; needs the extra paper-fonts
	$(INSTALL) '.[paper-fonts]'
	"$(BIN)/python" -m pytest $(TWO_WORKERS) -m long

test-slurm: $(VENV)/.ready-test $(VENV)/.ready-slurm cluster ## the study on a SLURM of one node
	"$(BIN)/python" -m pytest -m slurm -rs

mutants: $(VENV)/.ready-test ## faults of one line in the science that no test notices; takes hours
	"$(BIN)/python" -m mutmut run --max-children $(JOBS)
	"$(BIN)/python" -m mutmut results

lint: $(VENV)/.ready-lint ## style, types and which package may import which
	"$(BIN)/python" -m ruff check
	"$(BIN)/python" -m ruff format --check
	"$(BIN)/python" -m snakefmt --line-length 100 --check Snakefile workflow
	"$(BIN)/python" -m mypy
	"$(BIN)/python" -c 'from importlinter.cli import lint_imports_command as run; run()'

docs: $(VENV)/.ready-docs ## the documentation, as pages that need no network
	NO_MKDOCS_2_WARNING=1 "$(BIN)/python" -m mkdocs build --strict
	@printf 'documentation: %s\n' "$$PWD/site/index.html"

bench: $(VENV)/.ready-bench ## attacks, training and distances beside others, on this machine
	"$(BIN)/python" -m pip install --quiet --no-deps torchattacks==3.5.1
	"$(BIN)/python" benchmarks/bench.py results/benchmarks

bench-strength: $(VENV)/.ready-bench ## the strong attack beside AutoAttack, on the models of the demo
	"$(BIN)/python" -m pip install --quiet --no-deps pyautoattack==0.2.0
	"$(BIN)/python" benchmarks/strength.py results/demo

# CONFIG is one file, whatever its name, or several of which later ones add to the first.
plan: export CONFIG := $(CONFIG)
plan: export SPEEDS := $(SPEEDS)
plan: $(READY) ## how long what is left of a study will take here, or at other speeds
	@set -f; if [ -e "$$CONFIG" ]; then set -- "$$CONFIG"; else set -- $$CONFIG; fi; \
	  exec $(RUN) -P -m robustgen.jobs.plan --cores $(JOBS) $(if $(SPEEDS),--speeds "$$SPEEDS") --configfile "$$@"

lock: ## resolve constraints.txt anew from the ranges in pyproject.toml
	$(PYTHON) -m pip install --quiet --dry-run --ignore-installed --report $(LOCK) '.[paper-fonts,test,lint,docs,slurm,bench]'
	$(PYTHON) tests/lock.py $(LOCK) > constraints.txt
	rm $(LOCK)

clean: environment $(if $(filter .venv,$(VENV)),,own created) ## remove the environment, not the results
	rm -rf "$(VENV)"

# A folder of the user, or an environment of conda, is neither filled nor removed.
.PHONY: environment
environment:
	@if [ -e "$(VENV)" ] && ! [ -e "$(VENV)/pyvenv.cfg" ] && [ "$$(ls -A "$(VENV)")" ]; then \
	  echo "robustgen: $(VENV) is not an environment of Python's venv: name another VENV, or" \
	    "activate this one and leave VENV out" >&2; exit 1; \
	fi

# Only an environment that this Makefile made is removed.
.PHONY: created
created:
	@if [ -e "$(VENV)" ] && ! [ -e "$(VENV)/.ready" ] && ! [ "$(VENV)" = .venv ]; then \
	  echo "robustgen: $(VENV) was not set up by make, which does not remove it" >&2; exit 1; \
	fi

# An environment has one package robustgen: to install this clone's would replace another clone's.
# The package of a clone that was moved cannot be found, and is installed again.
.PHONY: own
own: environment
	@if [ -e "$(VENV)/.ready" ] && ! [ -x "$(BIN)/python" ]; then \
	  echo "robustgen: $(VENV) has no working Python: remove it, to have it set up again" >&2; exit 1; \
	elif [ -x "$(BIN)/python" ]; then \
	  clone=$$("$(BIN)/python" $(CLONE)) || exit; \
	  if [ -z "$$clone" ] && [ -e "$(VENV)/.ready" ]; then $(INSTALL) . --no-deps; \
	  elif [ -n "$$clone" ] && [ "$$clone" != this ]; then \
	    printf 'robustgen: the environment %s has the package of another clone, %s: %s\n' \
	      "$(VENV)" "$$clone" "name another VENV, or remove the environment" >&2; exit 1; \
	  fi; \
	fi

$(VENV)/.ready: pyproject.toml constraints.txt | own
	$(PYTHON) -c 'import sys; sys.exit("Python 3.11 or newer is needed" if sys.version_info < (3, 11) else 0)'
	@echo "installing Python packages into $(VENV): 6 GB, some minutes"
	$(PYTHON) -m venv "$(VENV)"
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
