# Every target works as the first command on a fresh clone.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
RUN := env OMP_NUM_THREADS=$(or $(OMP_NUM_THREADS),2) MPLBACKEND=Agg

.PHONY: demo test test-slow quick check harden bench pages tutorials docs wheel try-wheel clean

# The core alone: what a user installs.
$(VENV)/.core: pyproject.toml constraints.txt
	$(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install -q -c constraints.txt -e .
	touch $@

# With the extras, the development tools and the other libraries that the tests drive.
$(VENV)/.installed: $(VENV)/.core
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[dev]"
	$(BIN)/python -m pip install -q -c constraints.txt --no-deps timm torchvision==0.28.0
	touch $@

demo: $(VENV)/.core
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

# Hostile input, on loopback alone, with eight minutes of fuzzing; the table at the end says what was tried and what came of it.
harden: $(VENV)/.installed
	env OMP_NUM_THREADS=1 MPLBACKEND=Agg RHEOSTAT_HARDEN_SECONDS=$(or $(SECONDS_OF_FUZZING),480) \
	  $(BIN)/python -m pytest tests/hardening tests/serve tests/data/test_hostile.py tests/data/test_mat.py \
	  tests/runtime/test_bounded_text.py

# Timings on an idle machine; at the end each beside its goal and the last committed row, with what moved.
bench: $(VENV)/.installed
	$(RUN) $(BIN)/python benchmarks/measure/speed.py
	$(RUN) $(BIN)/python benchmarks/measure/costs.py
	$(BIN)/python benchmarks/measure/compare.py

# README's results and the generated pages of docs/ from the rows; into another folder by `make pages OUT=DIR`.
pages: $(VENV)/.installed
	$(RUN) $(BIN)/python benchmarks/pages/build.py --out $(or $(OUT),.)

# The tutorials run, and their pages show what they print and draw: about five minutes.
tutorials: $(VENV)/.installed
	env OMP_NUM_THREADS=1 $(BIN)/python benchmarks/pages/tutorials.py

# The site, in build/site; a warning ends the build.
docs: $(VENV)/.installed
	$(BIN)/python -m pip install -q -c constraints.txt -e ".[docs]"
	$(BIN)/zensical build --clean --strict

# Both distributions, and the demo in a new environment that has nothing else.
wheel: $(VENV)/.core
	$(BIN)/python -m pip install -q build
	$(BIN)/python -m build -q --outdir dist .

try-wheel: wheel
	rm -rf build/bare && $(PYTHON) -m venv build/bare
	build/bare/bin/python -m pip install -q -c constraints.txt dist/rheostat-*.whl
	cd build && bare/bin/rheostat --version && bare/bin/rheostat demo --out demo

clean:
	rm -rf $(VENV) build dist
