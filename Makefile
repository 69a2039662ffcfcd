# The two commands of the README. Each makes .venv, installs what it needs once, and runs.
PYTHON ?= python3
PIP = .venv/bin/python -m pip --disable-pip-version-check install -q -c constraints.txt

.PHONY: demo test format clean

demo: .venv/.demo
	.venv/bin/fold-opt run markowitz

test: .venv/.test
	.venv/bin/ruff format --check .
	.venv/bin/ruff check .
	.venv/bin/pyright
	.venv/bin/python -m pytest -n auto

format: .venv/.test
	.venv/bin/ruff format .
	.venv/bin/ruff check --fix .

# Stamps: an install is repeated only when what it depends on has changed.
.venv/bin/python:
	$(PYTHON) -m venv .venv

.venv/.demo: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e ".[experiments]"
	$(PIP) --no-deps qpth  # asks for numpy < 2, and runs with any
	touch $@

.venv/.test: pyproject.toml constraints.txt | .venv/bin/python
	$(PIP) -e ".[experiments,cvxpy,pyepo,grids,gurobi,distributed,docs,dev]"
	$(PIP) --no-deps qpth  # asks for numpy < 2, and runs with any
	touch $@ .venv/.demo

clean:
	rm -rf .venv runs
