# Each target sets up what it needs in .venv; needed beforehand: make, and Python 3.11 or newer with venv.
.DEFAULT_GOAL := help
.PHONY: help book serve test chapters bench gpu mutants soak home lint clean chromium

PY := .venv/bin/python
PORT ?= 8000
GPU_PYTHON ?= python3

# A chapter's output must not depend on the machine's cores or on a user's own settings.
export OMP_NUM_THREADS := 1
export IPYTHONDIR := $(CURDIR)/.venv/ipython
export MPLCONFIGDIR := $(CURDIR)/.venv/matplotlib
export JUPYTER_PREFER_ENV_PATH := 1

help:  ## this list
	@sed -n 's/^\([a-z]*\):.*  ## /\1 /p' Makefile | while read -r name text; do printf 'make %-10s%s\n' "$$name" "$$text"; done

.venv/installed: requirements.txt pyproject.toml tools/make_environment.sh
	@PYTHON="$(PYTHON)" sh tools/make_environment.sh

# What tests and benchmarks compare with: apart, and without dependencies, so that it changes nothing.
.peers/.stamp: benchmarks/peers.txt .venv/installed
	@rm -rf .peers
	@$(PY) -m pip install --disable-pip-version-check -qq --no-deps --target .peers -r benchmarks/peers.txt
	@touch $@

book: .venv/installed  ## the website into _build/html, warnings as errors
	@$(PY) -m tools.build_book

serve: book  ## the website on localhost (PORT=8000)
	@$(PY) -m tools.serve_book $(PORT)

test: lint chromium book .peers/.stamp  ## everything that CI runs
	@$(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder tests chapters

chapters: .venv/installed  ## re-execute the notebooks in place (ONLY=01 for one)
	@$(PY) -m tools.execute_chapters $(ONLY)

bench: .venv/installed .peers/.stamp  ## speed and memory beside timm, into benchmarks/results
	@env -u OMP_NUM_THREADS $(PY) -m benchmarks.network $(ARGS)

# No .venv: such a machine has its own PyTorch, and may have no network.
gpu:  ## what only a GPU can tell, in 9 minutes (GPU_PYTHON=python3 ARGS="--only speed")
	@env -u OMP_NUM_THREADS $(GPU_PYTHON) -m benchmarks.gpu $(ARGS)

mutants: .venv/installed .peers/.stamp  ## mistakes that the tests notice (N=200 SEED=1 ONLY=attention)
	@$(PY) -m tools.mutants $(or $(N),200) $(or $(SEED),1) $(ONLY)

soak: .venv/installed .peers/.stamp  ## kills, hostile input and mutants at random (MINUTES=10 SEED=1)
	@$(PY) -m tools.soak $(or $(MINUTES),10) $(or $(SEED),1) $(ONLY)

home: .venv/installed  ## stamp the home repository (REPO=owner/name)
	@REPO='$(subst ','\'',$(REPO))' FORCE='$(FORCE)' $(PY) -m tools.home

chromium: .venv/installed
	@$(PY) -m tools.find_chromium >/dev/null

lint: .venv/installed  ## code, notebooks, workflows, vendored files
	@$(PY) -m ruff check --quiet
	@$(PY) -m ruff format --check --quiet
	@$(PY) -m check_jsonschema --quiet --builtin-schema vendor.github-workflows .github/workflows/*.yml
	@.venv/bin/zizmor --offline --quiet .github/workflows
	@$(PY) -m tools.vendor_browser_files --check

clean:  ## remove what was built; the environments .venv and .twin stay
	rm -rf _build .pytest_cache .ruff_cache .hypothesis
	find coatnet_mini tests tools benchmarks -name __pycache__ -prune -exec rm -rf {} +
