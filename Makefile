# Everything a newcomer needs: `make` makes .venv from requirements.lock, `make demo` shows the method at work.
# Nothing must be installed first but Python 3.11 or newer and make; uv is used where it is on the PATH.

BIN := .venv/bin
STAMP := .venv/.installed
SLOW_ARGS ?=
QUALITY_ARGS ?=
BENCH_ARGS ?=
AUDIT_ARGS ?=
FUZZ_SECONDS ?= 600
# One process per core and one thread in each: threads of several processes would wait for each other.
PARALLEL := --numprocesses auto --maxprocesses 4 --dist loadfile
PARALLEL_TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest $(PARALLEL)
# Environments for single targets, which see the packages of .venv, too.
SIDE_VENV := sh scripts/make_side_venv.sh
READER_TESTS := tests/inference/slides/test_synthetic_truth.py tests/integration/test_real_slide.py tests/spatial

.DEFAULT_GOAL := default
.PHONY: default help demo test slow readers ecosystem tiatoolbox fuzz lint format types bench bench-quality docs dist lock audit clean

default: $(STAMP)  ## install everything into .venv (the default target)
	@echo "Ready: try \`make demo\`, or .venv/bin/patch2tissue --help"

help:  ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / {printf "  make %-13s %s\n", $$1, $$2}' $(MAKEFILE_LIST)

$(STAMP): requirements.lock pyproject.toml scripts/make_venv.sh scripts/vendor_openseadragon.sh
	@sh scripts/make_venv.sh .venv
	@sh scripts/vendor_openseadragon.sh || true  # it says what is missing without it
	@touch $(STAMP)

demo: $(STAMP)  ## train both stages on synthetic tissue and write runs/demo/report.html
	@$(BIN)/patch2tissue demo

test: $(STAMP)  ## run the tests that take seconds each
	@$(PARALLEL_TESTS)

slow: $(STAMP)  ## run the tests that take minutes
	@$(PARALLEL_TESTS) -m slow $(SLOW_ARGS) || [ $$? -eq 5 ]  # 5: there are none

readers: .venv-readers/.installed  ## read maps and outlines with tiffslide, QuBaLab, LazySlide and SpatialData
	@PYTHONPATH=$(CURDIR)/src .venv-readers/bin/python -m pytest $(READER_TESTS)

.venv-readers/.installed: $(STAMP) tests/readers.txt
	@$(SIDE_VENV) .venv-readers tests/readers.txt
	@touch $@

ecosystem: .venv-ecosystem/.installed  ## test what needs optional packages: Ray, ONNX Runtime, MONAI, PEFT and others
	@PYTHONPATH=$(CURDIR)/src OMP_NUM_THREADS=1 .venv-ecosystem/bin/python -m pytest -m extras $(PARALLEL)

.venv-ecosystem/.installed: $(STAMP) tests/ecosystem.txt
	@$(SIDE_VENV) .venv-ecosystem tests/ecosystem.txt
	@touch $@

tiatoolbox: .venv-tiatoolbox/.installed  ## run an exported model in TIAToolbox (gigabytes: it brings its own torch)
	@PYTHONPATH=$(CURDIR)/src .venv-tiatoolbox/bin/python -m pytest tests/export/test_tiatoolbox_model.py

.venv-tiatoolbox/.installed: $(STAMP) tests/tiatoolbox.txt
	@$(SIDE_VENV) .venv-tiatoolbox tests/tiatoolbox.txt
	@touch $@

fuzz: .venv-fuzz/.installed  ## fuzz the parsers of labels, tables, YAML and GeoJSON (FUZZ_SECONDS=60: shorter)
	@PYTHONPATH=$(CURDIR)/src .venv-fuzz/bin/python -m fuzz --seconds $(FUZZ_SECONDS)

.venv-fuzz/.installed: $(STAMP) fuzz/requirements.txt
	@$(SIDE_VENV) .venv-fuzz fuzz/requirements.txt || \
		{ echo "make: atheris is not to be had here: its wheels are for Linux on x86-64 with Python 3.11 to 3.13." >&2; \
		exit 1; }
	@touch $@

lint: $(STAMP)  ## ruff, formatting and types
	@$(BIN)/ruff check .
	@$(BIN)/ruff format --check .
	@$(BIN)/mypy

format: $(STAMP)  ## let ruff put imports and layout in order
	@$(BIN)/ruff check --fix .
	@$(BIN)/ruff format .

types: $(STAMP)  ## mypy --strict on the package
	@$(BIN)/mypy

bench: $(STAMP)  ## how fast everything is, as ratios; 45 minutes (BENCH_ARGS="--only predict": a part)
	@$(BIN)/python -m benchmarks.speed $(BENCH_ARGS)

bench-quality: $(STAMP)  ## the quality table: hours; goes on where it was (QUALITY_ARGS=--quick: minutes)
	@$(BIN)/python -m benchmarks.quality $(QUALITY_ARGS)

docs: $(STAMP)  ## build the documentation into site/; a broken link fails
	@NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
	@echo "Open site/index.html"

dist: $(STAMP)  ## build wheel and source distribution into dist/, and try the wheel in an empty environment
	@sh scripts/check_distribution.sh

lock:  ## choose the newest versions again and rewrite requirements.lock (needs uv)
	@sh scripts/make_lock.sh

audit: .venv-audit/.installed  ## look for known vulnerabilities of locked packages (needs the internet)
	@.venv-audit/bin/pip-audit --strict --require-hashes --disable-pip --progress-spinner off -r requirements.lock \
		$(AUDIT_ARGS)

.venv-audit/.installed: $(STAMP) scripts/audit.txt
	@rm -rf .venv-audit && $(BIN)/python -m venv .venv-audit
	@.venv-audit/bin/python -m pip install --quiet --quiet --disable-pip-version-check -r scripts/audit.txt
	@touch $@

clean:  ## remove caches and built files; .venv and runs/ stay
	@rm -rf build dist site .pytest_cache .ruff_cache .mypy_cache .hypothesis .coverage
	@find src tests benchmarks scripts -name __pycache__ -type d -prune -exec rm -rf {} +
