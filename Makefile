# Two commands on a fresh machine with Python 3.11+, git and make: `make demo` and `make test`.
PYTHON ?= python3
BIN := .venv/bin

.PHONY: demo test lint films bench docs requirements clean

demo: .venv/base  ## install the base package and find the cells of the demo smear
	$(BIN)/blastdet detect datasets/demo/smear.jpg --out blastdet-out

test: .venv/all lint  ## install everything, lint, type-check, test
	$(BIN)/python -m pytest --cov --cov-report=term:skip-covered

lint: .venv/all
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy

films: runs/films/fine runs/films/mid runs/films/coarse  ## draw the synthetic films that configs/default.yaml trains on

LOOK := --palette random --vary
runs/films/fine: | .venv/base
	$(BIN)/blastdet synth $@ --size 1280x960 --mpp 0.1 --n 100 --seed 11 $(LOOK)
runs/films/mid: | .venv/base
	$(BIN)/blastdet synth $@ --size 720x540 --mpp 0.2 --n 120 --seed 12 $(LOOK)
runs/films/coarse: | .venv/base
	$(BIN)/blastdet synth $@ --size 480x360 --mpp 0.35 --n 100 --seed 13 $(LOOK)

bench: .venv/all  ## measure against peers, which are installed to runs/bench (needs BLASTDET_DATA, 8 GB, an idle hour)
	$(BIN)/python benchmarks/speed.py
	$(BIN)/python benchmarks/tiling.py
	$(BIN)/python benchmarks/linearity.py
	$(BIN)/python benchmarks/evaluate.py
	$(BIN)/python benchmarks/review.py

docs: .venv/all  ## write the generated pages of docs/ again
	$(BIN)/python docs/generate.py

# Exact pins, every package named: --no-deps keeps pip from adding a second build of OpenCV (requirements/overrides.txt).
.venv/base: requirements/base.txt pyproject.toml
	test -d .venv || $(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --no-deps -r requirements/base.txt
	$(BIN)/python -m pip install --quiet --no-deps --editable .
	touch $@

# 6.8 GB: uv unpacks it in parallel; without uv, pip does the same more slowly.
.venv/all: .venv/base requirements/all.txt
	$(BIN)/python -m pip install --quiet uv==0.13.9 \
	  && $(BIN)/uv pip install --quiet --python $(BIN)/python --no-deps -r requirements/all.txt \
	  || $(BIN)/python -m pip install --quiet --no-deps -r requirements/all.txt
	touch $@

requirements:  ## resolve the pins anew
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate \
	  --override requirements/overrides.txt --extra all --extra dev pyproject.toml -o requirements/all.txt
	uv pip compile -q --universal --python-version 3.11 --no-emit-index-url --no-header --no-annotate \
	  -c requirements/all.txt --override requirements/overrides.txt pyproject.toml -o requirements/base.txt

clean:
	rm -rf .venv build dist *.egg-info
