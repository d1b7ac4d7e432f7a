# make demo, make test: everything is set up on the first call and again only when a lock or pyproject.toml
# changes. `make help` lists the rest.

PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.ppl_gen-installed
PYTEST_ARGS ?= -n 2 --dist loadfile
DEMO_ARGS ?=
BENCH_ARGS ?=

# The lock of the Python that will run: the environment's own where there is one. "-none" where PYTHON is
# missing, so that the rule for locks below can say so.
PY_TAG := $(shell p=$(BIN)/python; [ -x $$p ] || p='$(PYTHON)'; \
	"$$p" -c 'import sys; print("%d%d" % sys.version_info[:2])' 2>/dev/null || echo -none)
LOCK := requirements/lock-py$(PY_TAG).txt

.PHONY: help demo test test-slow lint types format bench peers clean setup
.DEFAULT_GOAL := help

help:
	@echo "make demo      fit and draw the demo's models (DEMO_ARGS=...)"
	@echo "make test      the default test suite, as CI runs it (PYTEST_ARGS=...)"
	@echo "make test-slow the slow tests, which CI runs too"
	@echo "make lint      ruff"
	@echo "make types     mypy"
	@echo "make format    what ruff can repair by itself"
	@echo "make bench     the benchmarks (BENCH_ARGS=...)"
	@echo "make peers     an environment of their own for the libraries that the benchmarks compare with"
	@echo "make clean     remove caches and build outputs; the environment $(VENV) stays"
	@echo "Variables: PYTHON=$(PYTHON) makes $(VENV) where there is none; PPL_GEN_DATA names the data folder"

demo: $(STAMP)
	$(BIN)/ppl_gen demo $(DEMO_ARGS)

test: $(STAMP)
	$(BIN)/python -m pytest $(PYTEST_ARGS)

test-slow: $(STAMP)
	$(BIN)/python -m pytest -m slow $(PYTEST_ARGS)

lint: $(STAMP)
	$(BIN)/python -m ruff check .

types: $(STAMP)
	$(BIN)/python -m mypy

format: $(STAMP)
	$(BIN)/python -m ruff check --fix .

bench: $(STAMP)
	@if [ -f benchmarks/__main__.py ]; then $(BIN)/python -m benchmarks $(BENCH_ARGS); \
	else for f in benchmarks/[a-z]*.py; do \
	  [ -f "$$f" ] || { echo "make: no benchmarks"; exit 1; }; \
	  echo "== $$f"; $(BIN)/python "$$f" $(BENCH_ARGS) || exit 1; done; fi

# Theirs beside ours: what a peer brings must not change what a user of ppl_gen gets.
peers: $(STAMP)
	[ -x .venv-peers/bin/python ] || $(PYTHON) -m venv .venv-peers
	.venv-peers/bin/python -m pip install --disable-pip-version-check -q -r $(LOCK) -r requirements/peers.txt
	.venv-peers/bin/python -m pip install --disable-pip-version-check -q --no-deps torchcfm==1.0.7  # it asks for CUDA

setup: $(STAMP)

# --no-build-isolation: setuptools is in the lock, so a later call needs no network.
$(STAMP): $(LOCK) pyproject.toml
	@[ -x $(BIN)/python ] || { [ -e $(VENV) ] && old=1; $(PYTHON) -m venv $(VENV); } || { \
	  [ -n "$$old" ] || rm -rf $(VENV); \
	  echo "make: '$(PYTHON) -m venv' failed. On Debian and Ubuntu install python3-venv," >&2; \
	  echo "make: or name another Python: make PYTHON=python3.12 ..." >&2; exit 1; }
	@if command -v nvidia-smi >/dev/null 2>&1 && nvidia-smi -L >/dev/null 2>&1; then \
	  echo "NVIDIA GPU found. PyTorch uses it if pip brings the CUDA build (it says which below)."; \
	  echo "JAX stays on the CPU; for the GPU: $(BIN)/pip install \"jax[cuda13]==`sed -n 's/^jax==//p' $(LOCK)`\""; fi
	$(BIN)/python -m pip install --disable-pip-version-check -q -r $(LOCK)
	$(BIN)/python -m pip install --disable-pip-version-check -q --no-deps --no-build-isolation -e .
	@$(BIN)/python -c 'from importlib.metadata import version as v; print("Installed: torch", v("torch") + ", jax", v("jax") + ", arviz", v("arviz"))'
	@touch $(STAMP)

requirements/lock-py%.txt:
	@echo "make: $(PYTHON) is missing or is a Python without a lock file (asked for: $@)." >&2
	@echo "make: there are locks for Python `ls requirements | sed -n 's/lock-py3\(.*\).txt/3.\1/p' | xargs`." >&2
	@echo "make: name one: make PYTHON=python3.11 ...  (and remove $(VENV) if another Python made it)" >&2
	@exit 1

clean:
	rm -rf build dist *.egg-info .pytest_cache .ruff_cache .mypy_cache ppl_gen_demo benchmarks/out
	find ppl_gen tests examples benchmarks -type d -name __pycache__ -prune -exec rm -rf {} + 2>/dev/null || true
