# Each target does its own set-up; all it needs is Python >= 3.11.
PYTHON ?= python3
SEED ?= 0
WORKERS ?= 3
BIN := .venv/bin
export PATH := $(CURDIR)/$(BIN):$(PATH)
# What DeepSpeed compiles belongs to this environment.
export TORCH_EXTENSIONS_DIR := $(CURDIR)/.venv/torch_extensions


.PHONY: demo test lint audit soak gpu clean

demo: .venv/installed
	$(BIN)/bigbatch-ue demo --seed $(SEED)

test: .venv/installed lint
	$(BIN)/python -m bigbatch_ue.runtime.deepspeed_build
	OMP_NUM_THREADS=1 $(BIN)/pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --durations=15

lint: .venv/installed
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/lint-imports --no-logo
	$(BIN)/shellcheck -x launchers/*.sh launchers/*/*.sbatch launchers/*/*.lsf analysis/examples/*/*.sh .ci/run

soak: .venv/installed
	OMP_NUM_THREADS=1 $(BIN)/python -m tests.soak --seed $(SEED)

# Every engine and its speed on a GPU; the results are in runs/gpu.
gpu: .venv/installed
	analysis/examples/gpu/run.sh runs/gpu tests
	analysis/examples/gpu/run.sh runs/gpu speed
	@echo 'next, in a folder with flowers5: analysis/examples/gpu/run.sh runs/gpu sweep'

audit: .venv/installed
	$(BIN)/python .ci/audit.py

.venv/installed: pyproject.toml constraints.txt
	@echo 'setting up .venv: a few minutes, 6.6 GB'
	$(PYTHON) -m venv .venv
	$(BIN)/pip install --quiet -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv
