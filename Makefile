# Everything that a developer, or somebody who wants to look, types. `make` alone lists it.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help
MAKEFLAGS += --no-print-directory

VENV := .venv
LOWEST := .venv-lowest
MOUNT := demo-mount
# Which: make test TESTS=tests/contract
TESTS := tests
# Two processes for each core, as most of a test is waiting; each has an emulator, mounts and, as root, a mount namespace
# of its own. PARALLEL= for one process, as a debugger wants it.
PARALLEL := -n $(shell echo $$((2 * $$(nproc)))) --dist worksteal
# What takes no FUSE only computes: a process for each core.
UNIT := -n auto --dist worksteal
# What a change usually breaks, through real mounts: a module for each chapter of docs/semantics.md, and the commands.
SMOKE := tests/contract/test_semantics_1_tree.py tests/contract/test_semantics_2_attributes.py \
  tests/contract/test_semantics_3_hangup.py tests/contract/test_semantics_3_refresh.py \
  tests/contract/test_semantics_4_reading.py tests/contract/test_semantics_5_errors.py \
  tests/contract/test_semantics_6_safety.py tests/contract/test_semantics_6_others.py \
  tests/contract/test_semantics_7_cost.py tests/mount/test_demo.py tests/mount/test_warm_and_cache.py
# Where we meet our dependencies: single modules; httpx and h11 on the virtual clock; pyfuse3 and trio below attributes,
# signals, reads and errors; uvicorn and starlette in the emulator; click in what is typed. The rest depends on our code.
DEPENDENT := tests/unit tests/simulated/test_client_forms.py tests/simulated/test_client_property.py \
  tests/simulated/test_unsolicited_property.py tests/contract/test_emulator_served.py \
  tests/contract/test_semantics_2_attributes.py tests/contract/test_semantics_3_hangup.py \
  tests/contract/test_semantics_4_reading.py tests/contract/test_semantics_5_errors.py \
  tests/mount/test_completion.py tests/mount/test_config.py tests/mount/test_demo.py tests/mount/test_warm_and_cache.py
# Bytecode of the tests is kept, whatever the machine says: without it each process compiles them all.
unexport PYTHONDONTWRITEBYTECODE
PIP := -m pip --disable-pip-version-check --no-input
# Behind `pip install`: what it does, in a line for each package. The first time takes a minute or more.
SHOWN := --progress-bar off | sed -unE 's/^Collecting ([^ ;(]+).*/  \1/p; s/^(Building|Installing).*: /  \1 /p'
# Debian's names of the releases that have a package of ours.
RELEASES := bookworm trixie

# make bench REPEAT=1 ONLY="find": how often each is measured, and which rows of the comparison (those whose names hold it).
# Seconds that the server takes for each answer: DELAY=0.2, or BENCH_DELAYS="0.02 0.2" for several. INDEX=0: only where
# the server does not list a whole project at once; INDEX=1: only where it does.
BENCH := .bench
REPEAT := 3
ONLY :=
DELAY := 0.02
BENCH_DELAYS = $(DELAY)
INDEX :=

# make soak MINUTES=10 SEED=7 EXAMPLES=2000: how long, with which plan (random unless set), and how many examples of the
# reference model.
MINUTES := 10
SEED :=
EXAMPLES := 2000

.PHONY: help demo demo-stop install test test-unit test-smoke test-lowest lint man layout soak bench bench-readme screenshots dist deb test-deb release clean

help: ## List the targets
	@echo "make TARGET; set-up comes with each, and costs nothing the next time"
	@sed -nE 's/^([a-z-]+):.*## (.*)/  \1\t\2/p' $(MAKEFILE_LIST) | expand -t 16

demo: $(VENV)/.installed ## Mount the built-in sample at ./demo-mount, show it, and leave it mounted
	@.ci/setup.sh mount
	@# 7: it is mounted already.
	@code=0; said=$$($(VENV)/bin/artifactfs demo --quiet $(MOUNT) 2>&1) || code=$$?; \
	 [ $$code = 7 ] || [ -z "$$said" ] || echo "$$said" >&2; [ $$code = 0 ] || [ $$code = 7 ] || exit $$code
	@for command in "ls -l $(MOUNT)" "ls -l $(MOUNT)/runs/70158/lora_model" "find $(MOUNT)/runs/70158"; do \
	   echo; echo "\$$ $$command"; $$command; done
	@echo; echo "The sample stays mounted at ./$(MOUNT); \`make demo-stop\` ends it."

demo-stop: ## End the demo
	@# 17: nothing is mounted there.
	@code=0; [ ! -x $(VENV)/bin/artifactfs ] || said=$$($(VENV)/bin/artifactfs umount $(MOUNT) 2>&1) || code=$$?; \
	 [ $$code = 0 ] || [ $$code = 17 ] || { echo "$$said" >&2; exit $$code; }

install: $(VENV)/.installed ## Make .venv, with .venv/bin/artifactfs

test: $(VENV)/.developing ## Run every test, real mounts included
	@.ci/setup.sh tests
	$(VENV)/bin/python -m pytest $(PARALLEL) $(TESTS)

test-unit: $(VENV)/.developing ## Run the tests of single modules: two minutes, no FUSE
	$(VENV)/bin/python -m pytest $(UNIT) tests/unit

test-smoke: $(VENV)/.developing ## Run what a change usually breaks, with real mounts: a minute and a half
	@.ci/setup.sh tests
	$(VENV)/bin/python -m pytest $(PARALLEL) $(SMOKE)

test-lowest: $(LOWEST)/.developing ## Run every test with the oldest dependencies that pyproject.toml allows
	@.ci/setup.sh tests
	$(LOWEST)/bin/python -m pytest -p no:cacheprovider $(PARALLEL) $(TESTS)

lint: $(VENV)/.developing ## Check style, spelling, format and types
	$(VENV)/bin/codespell $$(git ls-files 2>/dev/null || echo .)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	$(VENV)/bin/mypy

man: $(VENV)/.developing ## Build the man pages in docs/ anew, from the texts of the program and the README
	@$(VENV)/bin/python .ci/man.py

layout: $(VENV)/.installed ## Write docs/dev/layout.md and the counters in docs/status.md, from the modules
	@$(VENV)/bin/python .ci/layout.py
	@$(VENV)/bin/python .ci/status_page.py

soak: $(VENV)/.developing ## Readers and walkers against random faults, for MINUTES; then the reference model, at length
	@.ci/setup.sh tests
	$(VENV)/bin/python -m tests.soak --minutes '$(MINUTES)' $(if $(SEED),--seed '$(SEED)')
	$(if $(wildcard tests/reference),ARTIFACTFS_EXAMPLES='$(EXAMPLES)' $(VENV)/bin/python -m pytest tests/reference)

bench: $(BENCH)/venv/.benching ## Measure, beside rclone and by itself: .bench/result.md
	@.ci/setup.sh mount
	@$(BENCH)/venv/bin/python .ci/bench.py --out $(BENCH) --repeat '$(REPEAT)' --only '$(ONLY)' \
	   --delays '$(BENCH_DELAYS)' --index '$(INDEX)'

bench-readme: $(BENCH)/venv/.benching ## Put what `make bench` last measured in full into README.md
	@$(BENCH)/venv/bin/python .ci/bench.py --out $(BENCH) --readme

screenshots: $(VENV)/.developing ## Make the README's pictures of a desktop anew: docs/images
	@.ci/setup.sh tests
	@$(VENV)/bin/python -m tests.desktop.screenshots docs/images

dist: $(VENV)/.releasing ## Build dist/artifactfs-….tar.gz and, from it, the wheel; check both
	@rm -rf dist
	$(VENV)/bin/python -m build --quiet .
	$(VENV)/bin/twine check --strict dist/*
	$(VENV)/bin/check-wheel-contents dist/*.whl

deb: dist ## Build dist/artifactfs_….deb for Debian 12 and for 13, each in a fresh system of it: three minutes
	@.ci/setup.sh deb
	@printf '%s\n' $(RELEASES) | xargs -P 2 -n 1 .ci/deb.sh build

test-deb: ## Install each package of `make deb` in a bare system, use, upgrade and purge it; as root
	@printf '%s\n' $(RELEASES) | xargs -P 2 -n 1 .ci/deb.sh test

release: deb ## Build and check all that a release consists of, and say what is left to do; uploads nothing
	@.ci/release.sh

clean: demo-stop ## Remove what the other targets made
	rm -rf $(VENV) $(LOWEST) $(BENCH) build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis
	find artifactfs tests .ci -name __pycache__ -prune -exec rm -rf {} +

# A virtual environment that is missing, or whose Python is gone. pip is brought up to date: dependency groups need 25.1.
%/.created: .ci/setup.sh
	@echo "Making $*, once: system packages that are missing, and an environment for the Python packages"
	@python=$$(.ci/setup.sh build); \
	 $*/bin/python -c 'import pip' 2>/dev/null || "$$python" -m venv --clear $*
	@$*/bin/python $(PIP) install --quiet --upgrade 'pip>=25.1'
	@touch $@

$(VENV)/.installed: $(VENV)/.created pyproject.toml
	@echo "Installing the Python packages into $(VENV), and compiling pyfuse3: about a minute"
	@$(VENV)/bin/python $(PIP) install --editable '.[demo]' $(SHOWN)
	@touch $@

$(VENV)/.developing: $(VENV)/.installed
	@echo "Installing what the tests need into $(VENV): about a minute"
	@$(VENV)/bin/python $(PIP) install --editable '.[demo]' --group dev $(SHOWN)
	@touch $@

$(VENV)/.releasing: $(VENV)/.installed
	$(VENV)/bin/python $(PIP) install --quiet --editable '.[demo]' --group release
	@touch $@

$(LOWEST)/.developing: $(LOWEST)/.created pyproject.toml .ci/lowest.py
	$(LOWEST)/bin/python $(PIP) install --quiet --editable '.[demo]' --group dev $$($(LOWEST)/bin/python .ci/lowest.py)
	@touch $@

# Apart from $(VENV): the same pyfuse3 serves ours and the bare mount, and the tests do without what is only for measuring.
$(BENCH)/venv/.benching: $(BENCH)/venv/.created pyproject.toml
	@echo '*' >$(BENCH)/.gitignore
	$(BENCH)/venv/bin/python $(PIP) install --quiet --editable . --group bench
	@touch $@

.PRECIOUS: %/.created
