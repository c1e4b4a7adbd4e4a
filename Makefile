# Every target works as the first command on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := env OMP_NUM_THREADS=$(or $(OMP_NUM_THREADS),2) MPLBACKEND=Agg

.PHONY: demo test test-slow quick check harden bench pages wheel clean

$(VENV)/.installed: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q --upgrade pip
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps timm torchvision==0.28.0
	touch $@

demo: $(VENV)/.installed
	$(RUN) $(BIN)/rheostat demo

TEST := env OMP_NUM_THREADS=1 MKL_NUM_THREADS=1 MPLBACKEND=Agg $(BIN)/python -m pytest -n 2 --dist worksteal

test: $(VENV)/.installed
	$(TEST) -m "not slow"

test-slow: $(VENV)/.installed
	$(TEST) -m slow

quick: test

check: $(VENV)/.installed
	$(BIN)/ruff check src tests benchmarks
	$(BIN)/ruff format --check src tests benchmarks
	$(BIN)/mypy
	$(BIN)/lint-imports

# Ten minutes of hostile input, on loopback alone; the table at the end says what was tried and what came of it.
harden: $(VENV)/.installed
	env OMP_NUM_THREADS=1 MPLBACKEND=Agg RHEOSTAT_HARDEN_SECONDS=$(or $(SECONDS_OF_FUZZING),480) \
	  $(BIN)/python -m pytest tests/hardening tests/serve tests/data/test_hostile.py

bench: $(VENV)/.installed
	$(RUN) $(BIN)/python benchmarks/measure/speed.py
	$(RUN) $(BIN)/python benchmarks/measure/costs.py

# README's table, docs/results.md and docs/which.md from the rows; into another folder by `make pages OUT=DIR`.
pages: $(VENV)/.installed
	$(RUN) $(BIN)/python benchmarks/pages/build.py --out $(or $(OUT),.)

wheel: $(VENV)/.installed
	$(BIN)/python -m pip wheel -q --no-deps -w dist .

clean:
	rm -rf $(VENV) build dist
