# On a fresh machine with Python 3.11 or later, git and make: `make demo`, `make test`. `make` alone lists all targets.
PYTHON ?= python3
BIN := .venv/bin
WORKERS ?= 2
# Where Python may not store compiled modules, each process that a test starts compiles torch or FiftyOne again.
export PYTHONDONTWRITEBYTECODE :=

.DEFAULT_GOAL := help
.PHONY: help demo test test-fast lint films bench fuzz fuzz-service chaos docs requirements clean

help:  ## list the targets
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/:[^#]*## /\t/' | expand -t 14

demo: .venv/base  ## install the base package and find the cells of nine images of blood
	$(BIN)/blastdet detect datasets/demo/blood --out blastdet-out --overwrite

test: .venv/all lint  ## install everything; lint, type check, all tests with coverage (about a quarter of an hour on two cores)
	$(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder --cov --cov-report=term:skip-covered

test-fast: .venv/all  ## what a change in a package needs: no torch, no browser, no datasets
	$(BIN)/python -m pytest -q -n $(WORKERS) --dist loadfile --no-loadscope-reorder --fast

lint: .venv/all  ## ruff and mypy
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

docs: .venv/all  ## write the generated pages again and build the site in site/
	$(BIN)/python docs/generate.py
	NO_MKDOCS_2_WARNING=1 $(BIN)/python -m mkdocs build --strict --quiet

films: runs/films/fine runs/films/mid runs/films/coarse  ## draw the synthetic smears that configs/default.yaml trains on

LOOK := --palette random --vary
runs/films/fine: | .venv/base
	$(BIN)/blastdet synth $@ --size 1280x960 --mpp 0.1 --n 100 --seed 11 $(LOOK)
runs/films/mid: | .venv/base
	$(BIN)/blastdet synth $@ --size 720x540 --mpp 0.2 --n 120 --seed 12 $(LOOK)
runs/films/coarse: | .venv/base
	$(BIN)/blastdet synth $@ --size 480x360 --mpp 0.35 --n 100 --seed 13 $(LOOK)

bench: .venv/all  ## measure against other programs, installed to runs/bench (needs BLASTDET_DATA, 8 GB, an idle hour)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/tiling.py
	$(BIN)/python benchmarks/linearity.py
	$(BIN)/python benchmarks/evaluate.py
	$(BIN)/python benchmarks/review.py
	$(BIN)/python benchmarks/service.py
	$(BIN)/python benchmarks/batching.py

fuzz: .venv/all  ## read 10,000 mutated files through the API: no traceback, no hang, bounded memory (under twenty minutes)
	$(BIN)/python tests/fuzz.py --files 10000 --seed $(or $(SEED),0) --workers $(WORKERS)

fuzz-service: .venv/all  ## send 10,000 hostile requests to a service: no 500, no leak, no growth (under an hour)
	$(BIN)/python tests/service_hostile.py --requests 10000 --seed $(or $(SEED),0)

chaos: .venv/all  ## kill a service at 100 random points, and its database for 30 s: no job lost or done twice, no half file (under an hour)
	$(BIN)/python tests/service_chaos.py --kills 100 --seed $(or $(SEED),0)

# Exact pins, every package named: --no-deps keeps pip from adding a second build of OpenCV (requirements/overrides.txt).
.venv/base: requirements/base.txt pyproject.toml
	@echo "Installing the base packages into .venv: this takes a minute or more, and prints nothing until it is done."
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/base.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# 7 GB: uv unpacks it in parallel; without uv, pip does the same more slowly.
.venv/all: .venv/base requirements/all.txt
	$(BIN)/python -m pip install --quiet uv==0.13.9 \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements/all.txt \
	  || $(BIN)/python -m pip install --quiet --no-deps -r requirements/all.txt
	touch $@

requirements:  ## resolve the pinned requirements again
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate \
	  --override requirements/overrides.txt --extra all --extra dev pyproject.toml -o requirements/all.txt
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate \
	  -c requirements/all.txt --override requirements/overrides.txt pyproject.toml -o requirements/base.txt

clean:  ## remove the environment and everything built
	rm -rf .venv build dist site *.egg-info
