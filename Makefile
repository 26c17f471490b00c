# Everything runs from a fresh clone with Python 3.11 (or newer) and make. `make demo` and `make test` install what they need.
PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
BIN := $(VENV)/bin
INSTALLED := $(VENV)/.installed
WEIGHTS := $(VENV)/.weights
DEMO_OUT ?= demo-out
CODE := curate distill restoration pipelines tests examples benchmarks docs

.PHONY: demo test test-slow check format docs golden bench clean
.DEFAULT_GOAL := help

help:
	@echo "make demo       install, run the whole way on a dozen pictures, print where the report is"
	@echo "make test       install, fetch the encoder's weights once, run the tests (no network after that)"
	@echo "make test-slow  kills, resumes, other readers"
	@echo "make check      format, lint, types, layers, generated docs"
	@echo "make bench      benchmarks of the promises (needs IRDISTILL_DATA)"

$(INSTALLED): pyproject.toml
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "irdistill needs Python 3.11 or newer, got " + sys.version)'
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --editable '.[vit,demo,dev]'
	touch $@

$(WEIGHTS): $(INSTALLED)
	$(BIN)/curate fetch-weights vit_s14
	touch $@

demo: $(WEIGHTS)
	$(BIN)/pipelines run demo $(DEMO_OUT)

test: $(WEIGHTS)
	IRDISTILL_REQUIRE_WEIGHTS=1 $(BIN)/pytest -m "not slow"

test-slow: $(WEIGHTS)
	IRDISTILL_REQUIRE_WEIGHTS=1 $(BIN)/pytest -m slow

check: $(INSTALLED)
	$(BIN)/ruff format --check $(CODE)
	$(BIN)/ruff check $(CODE)
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python docs/render.py --check

format: $(INSTALLED)
	$(BIN)/ruff format $(CODE)
	$(BIN)/ruff check --fix $(CODE)

docs: $(INSTALLED)
	$(BIN)/python docs/render.py

golden: $(INSTALLED)
	IRDISTILL_WRITE_GOLDEN=1 $(BIN)/pytest -q tests/contract/test_house.py

bench: $(INSTALLED)
	$(BIN)/python benchmarks/bench_startup.py
	$(BIN)/python benchmarks/bench_patch_formats.py
	$(BIN)/python benchmarks/bench_build_shards.py
	$(BIN)/python benchmarks/bench_filters.py
	$(BIN)/python benchmarks/bench_slow_filters.py
	$(BIN)/python benchmarks/bench_reselect.py
	$(BIN)/python benchmarks/bench_recipes.py
	$(BIN)/python benchmarks/bench_degradations.py
	$(BIN)/python benchmarks/bench_restore.py
	$(BIN)/python benchmarks/bench_models.py
	$(BIN)/python benchmarks/bench_ipt.py
	$(BIN)/python benchmarks/bench_list_start.py
	$(BIN)/python benchmarks/bench_download.py

clean:
	rm -rf $(VENV) $(DEMO_OUT) build dist .mypy_cache .ruff_cache .pytest_cache .hypothesis .import_linter_cache
