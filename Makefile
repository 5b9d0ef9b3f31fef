# Two commands on a fresh machine: `make quickstart` and `make test`. Both set up everything they need in .venv.
PYTHON ?= python3
VENV ?= .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
WORKERS ?= 3

.DEFAULT_GOAL := help
.PHONY: help quickstart test test-unit check lint types format install startup kubernetes-tools clean

help: ## Show what can be made
	@grep -E '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 18

install: $(STAMP) ## Set up .venv with the tested versions (some 6 GB, 3 minutes)

$(STAMP): pyproject.toml setup.py constraints.txt
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' \
		|| { echo "Python 3.11 or newer is needed: make PYTHON=/path/to/python3.12 ..."; exit 2; }
	@test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[train,slurm,kubernetes,dev]'
	@touch $@

quickstart: $(STAMP) ## Train a small model on this machine: plan, interrupt, resume, evaluate, report
	$(BIN)/python examples/quickstart/run.py

test: $(STAMP) ## Run all tests; what this machine has no GPU or no Kubernetes for is skipped, counted and named
	$(BIN)/python -m pytest -n $(WORKERS) --no-loadscope-reorder

test-unit: $(STAMP) ## Run the unit tests alone, in about a minute: what one runs while writing
	$(BIN)/python -m pytest -n 2 -m "not models" tests/unit

lint: $(STAMP) ## Check style
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .

types: $(STAMP) ## Check types
	$(BIN)/mypy

check: lint types test ## Everything that CI runs

format: $(STAMP) ## Rewrite the code in the project's style
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

startup: $(STAMP) ## Measure how fast the command line starts
	$(BIN)/python -m benchmarks.startup --json

kubernetes-tools: ## Build the test cluster's programs into a cache, once (20 minutes on 2 cores)
	@$(PYTHON) -m tests.cluster.kubernetes.tools.build

clean: ## Remove what was built and trained here
	rm -rf $(VENV) examples/quickstart/work build dist *.egg-info
