# Everything a reader runs. `make` alone explains the targets.

PROFILE ?= offline
DATA ?=
FOLDS ?=
CORES ?=
JOBS ?=
ARGS ?=
# venv: make .venv and use it. system: use the running interpreter as it is (Colab, conda).
PYTHON_ENV ?= venv
PYTHON3 ?= python3

ifeq ($(PYTHON_ENV),system)
PYTHON := $(PYTHON3)
READY := system
else ifeq ($(PYTHON_ENV),venv)
PYTHON := .venv/bin/python
READY := .venv/.ready
else
$(error PYTHON_ENV is $(PYTHON_ENV): say venv or system)
endif

SOURCES := lib tests notebooks

.DEFAULT_GOAL := help
.PHONY: help study test check report system

help: ## Explain the targets
	@echo 'make TARGET [NAME=value ...]'
	@echo
	@awk -F ':.*## ' '/^[a-z]+:.*## / { printf "  %-8s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)
	@echo
	@echo '  PROFILE=offline   study to run: a file in notebooks/profiles ($(patsubst notebooks/profiles/%.yaml,%,$(wildcard notebooks/profiles/*.yaml)))'
	@echo '  DATA=FOLDER       folder searched for the data publishers'\'' files before the Hub is asked'
	@echo '  FOLDS=0,1         folds to run instead of the profile'\''s'
	@echo '  CORES=2           processor cores to use (default: all)'
	@echo '  JOBS=2            chapters at a time, each on its share of the cores (default: 1)'
	@echo '  ARGS="-p rounds 3"  parameters that beat the profile'\''s'
	@echo '  PYTHON_ENV=system use the running Python instead of making .venv (Colab, conda)'
	@echo '  PYTHON3=python3   the Python, 3.11 or newer, to make .venv with or to use'

study: $(READY) ## Run a study, from where it stopped, and publish it into reports/PROFILE
	$(PYTHON) -m headcount.study run --profile $(PROFILE) $(if $(DATA),--data '$(DATA)') \
	  $(if $(FOLDS),--folds '$(FOLDS)') $(if $(CORES),--cores $(CORES)) \
	  $(if $(JOBS),--jobs $(JOBS)) $(ARGS)

test: $(READY) ## Run the tests (those on real data only with DATA)
	$(if $(DATA),HEADCOUNT_DATA='$(abspath $(DATA))') $(PYTHON) -m pytest -n logical --dist loadfile --no-loadscope-reorder $(ARGS)

check: $(READY) ## Lint, check the format, and that what is generated is up to date
	$(PYTHON) -m ruff check $(SOURCES)
	$(PYTHON) -m ruff format --check $(SOURCES)
	$(PYTHON) -m headcount.colab check
	$(PYTHON) -m headcount.report check

report: $(READY) ## Write the committed reports' pages, the README's headline and Colab's cells again
	$(PYTHON) -m headcount.colab write
	$(PYTHON) -m headcount.report pages
	$(PYTHON) -m headcount.report headline

system:
	@$(PYTHON) -c 'import headcount' 2> /dev/null || \
	  { echo "make: $(PYTHON) has no headcount: say $(PYTHON) -m pip install -e '.[offline,dev]'" >&2; exit 2; }

# A .venv that is there already is brought to the lock's versions.
.venv/.ready: pyproject.toml requirements.lock
	@$(PYTHON3) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
	  { echo 'make: $(PYTHON3) is not Python 3.11 or newer: say make PYTHON3=python3.12' >&2; exit 2; }
	test -x .venv/bin/python || $(PYTHON3) -m venv .venv
	.venv/bin/python -m pip install --quiet -c requirements.lock -e '.[offline,dev]'
	touch $@
