# Every target sets itself up in .venv; the only needs are python3 (3.11 or newer) and make.

PYTHON ?= python3
BIN := .venv/bin
PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check --constraint constraints.txt
PARALLEL := --numprocesses auto --dist worksteal
export SORA_REF_CACHE ?= $(CURDIR)/.cache

.DEFAULT_GOAL := help
.PHONY: help demo demo-quick test test-deep weights lint oracles bench vectors conformance-vectors gpu gpu-wheels docs mutants mutants-sample soak soak-quick setup clean

help:  ## List the targets.
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-19s %s\n", $$1, $$2}' Makefile

demo: .venv/run  ## Fine-tune MiniLM with SoRA on real data, prune, prove it, export; with its controls (under 15 minutes).
	$(BIN)/sora-ref demo

demo-quick: .venv/run  ## The same with a small model and few steps (under a minute).
	$(BIN)/sora-ref demo --quick

# A worker to a core: threads of its own below it would only wait for each other.
test test-deep: export OPENBLAS_NUM_THREADS = 1

test: .venv/test  ## Run the tests (7 minutes on two cores); those that need real weights skip where these are not fetched.
	$(BIN)/python -m pytest $(PARALLEL) --ignore tests/oracles -m 'not deep'

test-deep: .venv/test  ## Run what those leave out: long proofs, and sweeps over all kills, sizes and seeds.
	$(BIN)/python -m pytest $(PARALLEL) --ignore tests/oracles -m deep

weights: .venv/run  ## Fetch the real weights and data into .cache.
	$(BIN)/sora-ref fetch

lint: .venv/lint  ## Check style, and types as on Linux, macOS and Windows.
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/mypy --platform darwin --cache-dir .mypy_cache/darwin sora_ref _sora_ref_cli.py _sora_ref_pytest.py
	$(BIN)/mypy --platform win32 --cache-dir .mypy_cache/win32 sora_ref _sora_ref_cli.py _sora_ref_pytest.py

oracles: .venv/oracles  ## Compare live with PyTorch, JAX, transformers, PEFT, scikit-learn, PyProximal and SciPy (installs them).
	$(BIN)/python -m pytest $(PARALLEL) tests/oracles

bench: .venv/oracles  ## Time training and inference beside PyTorch and our build of before; writes build/bench.json and a picture (half an hour, idle machine).
	$(BIN)/python tests/bench

vectors: .venv/oracles  ## Regenerate the golden vectors in tests/vectors.
	$(BIN)/python tests/support/make_vectors.py

conformance-vectors: .venv/test  ## Regenerate the golden vectors of the conformance kit, which other implementations read.
	$(BIN)/python -m sora_ref.conformance.golden write

gpu:  ## On a GPU: its tests and its benchmark, with the packages of $(PYTHON); writes build/gpu.json.
	$(PYTHON) tests/gpu/run.py

gpu-wheels:  ## Fetch the small wheels that `make gpu` needs where there is no network, into build/wheels.
	$(PYTHON) tests/gpu/run.py wheels

docs: .venv/docs  ## Build the book in build/docs, every code cell run; a warning is an error.
	$(BIN)/python -m sphinx -E -W --keep-going -b html docs build/docs

mutants: .venv/mutants  ## Run the tests against every small change of the specification; writes docs/mutants.md (under an hour).
	$(BIN)/python tests/support/mutants.py run

mutants-sample: .venv/test  ## The same for a fixed sample of changes (under 90 seconds).
	$(BIN)/python tests/support/mutants.py sample

soak: .venv/test  ## Kill, crash, fuzz, fill the disk for an hour; seeds printed, writes build/soak.json (docs/soak.md).
	$(BIN)/python -m tests.soak $(SOAK)

soak-quick: .venv/test  ## The same for two minutes, always with seed 0.
	$(BIN)/python -m tests.soak --seconds 120 --seed 0 $(SOAK)

clean:  ## Remove everything that is built or cached, but no run.
	rm -rf .venv .cache build dist *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis

setup: .venv/all  ## Install at once what all of these install when they need it.

.venv/all: .venv/base
	$(PIP) --editable '.[test,lint,docs,mutants,oracles]'
	@touch .venv/run .venv/test .venv/lint .venv/docs .venv/mutants .venv/oracles $@

.venv/base: pyproject.toml constraints.txt
	@echo 'setting up .venv: a minute or more the first time'
	@$(PYTHON) -c 'import sys; sys.exit(None if sys.version_info >= (3, 11) else "sora_ref needs Python 3.11 or newer, and $(PYTHON) is %d.%d" % sys.version_info[:2])'
	@$(PYTHON) -m venv .venv || { echo 'no virtual environment could be made: on Debian and Ubuntu, install python3-venv'; exit 1; }
	@touch $@

.venv/run: .venv/base
	$(PIP) --editable '.[run]'
	@touch $@

.venv/test: .venv/base
	$(PIP) --editable '.[test]'
	@touch $@

.venv/lint: .venv/base
	$(PIP) --editable '.[test,lint]'
	@touch $@

.venv/docs: .venv/test
	$(PIP) --editable '.[test,docs]'
	@touch $@

.venv/mutants: .venv/test
	$(PIP) --editable '.[test,mutants]'
	@touch $@

.venv/oracles: .venv/test
	$(PIP) --editable '.[test,oracles]'
	@touch $@
