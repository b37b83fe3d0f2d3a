# Everything that a newcomer or CI runs; `make help` lists it. Each target creates .venv if there is none.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
READY := $(VENV)/.ready
RUNS := $(or $(SCSUITE_RUNS),runs)

DATA ?=
BS ?=
ARGS ?=
# The newest training run: names start with the time in UTC, so the last one in order is the newest.
RUN ?= $(lastword $(sort $(wildcard $(RUNS)/*Z-train-*)))

data = $(if $(DATA),--data $(DATA))
bs = $(if $(BS),--bs $(BS))
ckpt = --ckpt $(or $(RUN),$(error no training run in $(RUNS)/: make train first, or give RUN=))

.DEFAULT_GOAL := help
.PHONY: help setup demo test faults faults-quick mutants lint type docs check smoke zigzag lr-range train evaluate gradcam bench study clean

help: ## List the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | awk -F ':.*## ' '{printf "  %-12s %s\n", $$1, $$2}'
	@echo
	@echo "  Variables: DATA (cifar10, shapes, folder or archive), RUN (a training run; default: the newest),"
	@echo "  BS (batch size), ARGS (further options), PYTHON (3.11 or later), SCSUITE_RUNS (default: runs)."

$(READY): pyproject.toml
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' || \
		{ echo "error: python: $(PYTHON): expected 3.11 or later, found $$($(PYTHON) -V 2>&1). Set PYTHON=." >&2; exit 2; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[dev]'
	@touch $@

setup: $(READY) ## Create .venv with scsuite and its development tools

demo: $(READY) ## The main job on the embedded data: zigzag, range test, training, evaluation, Grad-CAM
	@$(BIN)/python -m tests.demo

test: $(READY) ## Run the tests (at most 4 minutes on two cores)
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile --no-loadscope-reorder $(ARGS)

faults: $(READY) ## The fault scorecard: damaged and hostile input, crashes, full disks, kills (Linux; 25 minutes)
	$(BIN)/python -m tests.faults --json faults.json

faults-quick: $(READY) ## Part of the fault scorecard (Linux; 4 minutes)
	$(BIN)/python -m tests.faults --quick --json faults.json

mutants: $(READY) ## Wrong changes to the core that no test notices (Linux; an hour on two cores)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -e '.[mutants]'
	$(BIN)/python -m tests.mutants --known
	$(BIN)/python -m tests.mutants --json mutants.json $(ARGS)

lint: $(READY) ## Check style and format (ruff)
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .

type: $(READY) ## Check types (mypy, strict)
	$(BIN)/mypy

docs: $(READY) ## Check spelling (codespell), and the length of the Markdown files and their lines
	$(BIN)/codespell --ignore-words-list carin README.md .github scsuite tests/README.md runs/README.md runs/reference/README.md
	$(BIN)/python -m tests.check_docs

check: lint type docs ## All three

smoke: $(READY) ## All five commands on a few thousand real images: DATA=ARCHIVE
	$(BIN)/python -m tests.smoke $(or $(DATA),$(error give DATA=, an archive or folder of images))

zigzag: $(READY) ## Draw the learning-rate curve
	$(BIN)/scsuite zigzag $(ARGS)

lr-range: $(READY) ## Find LRMIN and LRMAX
	$(BIN)/scsuite lr-range $(data) $(bs) $(ARGS)

train: $(READY) ## Train with the One Cycle Policy
	$(BIN)/scsuite train $(data) $(bs) $(ARGS)

evaluate: $(READY) ## Evaluate RUN
	$(BIN)/scsuite evaluate $(ckpt) $(data) $(ARGS)

gradcam: $(READY) ## Draw Grad-CAM maps of RUN
	$(BIN)/scsuite gradcam $(ckpt) $(data) $(ARGS)

bench: $(READY) ## Measure start-up, speed and memory
	$(BIN)/python -m tests.bench

study: $(READY) ## Compare the range test's learning rates with the best of a grid (hours)
	$(BIN)/python -m tests.studies

clean: ## Remove .venv and files of the tools; runs/ is kept
	rm -rf $(VENV) build dist faults.json mutants.json .pytest_cache .mypy_cache .ruff_cache *.egg-info
	find scsuite tests -name __pycache__ -type d -prune -exec rm -rf {} +
