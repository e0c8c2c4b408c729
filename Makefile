# Every target does its own set-up: on a fresh machine with Python 3.11, make and a compiler, `make demo` or `make test`
# is the only command. The environment is made once, and again when pyproject.toml or constraints.txt change.

SHELL := /bin/bash
.SHELLFLAGS := -eu -o pipefail -c
.DEFAULT_GOAL := help

# Asked by running it: a pyenv shim may be on the path for a version that is not there.
PYTHON ?= $(shell for p in python3.11 python3; do $$p -c '' 2>/dev/null && echo $$p && break; done)
WORKERS ?= 2

VENV := .venv
RUN := $(VENV)/bin/python
READY := $(VENV)/.ready
# pip shows its progress bars to people, and nothing but errors to a log.
QUIET := $(if $(MAKE_TERMOUT),,-q)
# One thread per process: two workers with a thread per core each would fight over the cores.
PYTEST := OMP_NUM_THREADS=1 $(RUN) -m pytest

.PHONY: help demo test test-slow bench quality style docs clean

help: ## this list
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "make %-10s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(READY): pyproject.toml constraints.txt
	@test -n "$(PYTHON)" || { echo "make: neither python3.11 nor python3 runs here; name one: make PYTHON=..." >&2; exit 1; }
	@$(RUN) -m pip --version >/dev/null 2>&1 || { echo "==> creating $(VENV) with $(PYTHON)"; $(PYTHON) -m venv $(VENV); }
	@echo "==> installing hf-reprogram and the tested set (torch brings several GB; minutes on a first run)"
	@$(RUN) -m pip install $(QUIET) --disable-pip-version-check -c constraints.txt -e ".[dev,audio,eval]"
	@touch $@

demo: $(READY) ## frozen SmolLM2 judges reviews, frozen CREPE hears through a hum; results in demo-output/
	@echo "==> models and data"
	@$(RUN) scripts/fetch_models.py smollm2-135m vader-amazon crepe-tiny
	@echo "==> demo"
	@$(RUN) scripts/demo.py
	@echo "==> demo, speech"
	@$(RUN) scripts/demo_speech.py

test: $(READY) ## the tests that every change must pass
	@echo "==> models and data"
	@$(RUN) scripts/fetch_models.py smollm2-135m vader-amazon minilm-l6 mistral-tokenizer crepe-tiny
	@echo "==> tests"
	@$(PYTEST) -m "not slow" -n $(WORKERS) -q --durations=10

test-slow: $(READY) ## the tests that need whole real models, or minutes
	@echo "==> models and data"
	@$(RUN) scripts/fetch_models.py smollm2-135m vader-amazon minilm-l6 mistral-tokenizer \
		crepe-tiny moonshine-tiny whisper-tiny.en ge2e
	@echo "==> slow tests"
	@$(PYTEST) -m slow --durations=10

bench: $(READY) ## step time, memory and load time beside a bare forward, PEFT and LoRA
	@$(RUN) scripts/fetch_models.py smollm2-135m vader-amazon
	@echo "==> speed"
	@$(RUN) scripts/benchmarks/speed.py
	@$(RUN) scripts/benchmarks/speed_maps.py

quality: $(READY) ## check format and lint, change nothing
	@echo "==> ruff"
	@$(RUN) -m ruff format --check .
	@$(RUN) -m ruff check .

style: $(READY) ## format, and mend what ruff can mend
	@$(RUN) -m ruff check --fix .
	@$(RUN) -m ruff format .

docs: $(READY) ## write the generated parts of the README
	@$(RUN) scripts/make_docs.py

clean: ## remove what runs leave; .venv and the model cache stay
	rm -rf demo-output out build dist *.egg-info .pytest_cache .ruff_cache
	find . -name __pycache__ -type d -not -path './$(VENV)/*' -prune -exec rm -rf {} +
