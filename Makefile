# Two commands for a newcomer: `make demo`, `make test`. Each makes the environment in .venv first.
# One for a GPU machine: `make card`, which measures what is there in at most nine minutes.
PYTHON ?= python3
BIN := .venv/bin
RUN ?= runs/demo
DEVICE ?= auto
CARD ?= benchmarks/results/card.json

.PHONY: demo cluster-demo test test-all check card clean

demo: .venv/installed
	$(BIN)/sweeps run demo --out $(RUN)

# The same over a head and two workers of this machine, one of which is killed meanwhile. FLAGS are the demo's own.
cluster-demo: .venv/installed
	$(BIN)/python deploy/cluster_demo.py $(FLAGS)

test: .venv/installed
	$(BIN)/pytest -m "not slow and not gpu"

test-all: .venv/installed
	$(BIN)/pytest -m "not gpu"

# A GPU machine's own Python will do: PyTorch is there, Ray need not be. DEVICE=cpu proves that it starts.
card:
	$(if $(wildcard $(BIN)/python),$(BIN)/python,$(PYTHON)) benchmarks/card.py --device $(DEVICE) --out $(CARD)

check: .venv/installed
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "Python 3.11 or newer is needed: make PYTHON=python3.12 ...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check -c constraints.txt -e '.[dev]'
	touch $@

clean:
	rm -rf .venv runs
