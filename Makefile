# Two commands: `make demo` and `make test`. Both build .venv first and reuse it afterwards.
SHELL := /bin/bash
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
LABEL_STUDIO_VENV := .venv/label-studio
LABEL_STUDIO_VERSION := 1.23.2
# Looks for what keeps people with disabilities out; only tests use it, and only where there is npm.
AXE_CORE_VERSION := 4.14.1
DETECTRON2 := git+https://github.com/facebookresearch/detectron2.git@02b5c4e295e990042a714712c21dc79b731e8833
OUT ?= demo-out
UV := $(BIN)/uv
# Tests run in so many processes side by side, each with its share of the cores; long files are begun first.
WORKERS ?= 2
SEED ?= 0
CASES ?= 100000
PYTEST := $(BIN)/python -m pytest --numprocesses $(WORKERS) --dist loadfile --no-loadscope-reorder --durations 15
# Tests and campaigns start hundreds of processes: each would compile all that it imports, for seconds.
unexport PYTHONDONTWRITEBYTECODE
export UV_COMPILE_BYTECODE := 1
export LABEL_STUDIO_COMMAND ?= $(abspath $(LABEL_STUDIO_VENV)/bin/label-studio)

.PHONY: demo test test-fast fuzz lint clean install pointrend constraints

install: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml constraints.txt constraints-label-studio.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet --constraint constraints.txt uv
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --group test --group label-studio-ml --editable '.[crowd,postgresql]'
	$(UV) pip install --quiet --python $(BIN)/python --no-deps label-studio-ml==1.0.9
	test -x $(LABEL_STUDIO_VENV)/bin/python || $(PYTHON) -m venv $(LABEL_STUDIO_VENV)
	$(UV) pip install --quiet --python $(LABEL_STUDIO_VENV)/bin/python --constraint constraints-label-studio.txt label-studio==$(LABEL_STUDIO_VERSION)
	if command -v npm >/dev/null; then npm install --silent --no-audit --no-fund --no-save --prefix $(VENV)/axe axe-core@$(AXE_CORE_VERSION) || echo "axe-core was not installed: its tests are skipped"; fi
	touch $@

# detectron2 is built from its repository: a compiler, git and some minutes.
pointrend: $(VENV)/.pointrend

$(VENV)/.pointrend: $(VENV)/.installed
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --editable '.[crowd,pointrend]'
	$(UV) pip install --quiet --python $(BIN)/python --constraint constraints.txt --no-build-isolation '$(DETECTRON2)'
	touch $@

demo: $(if $(filter pointrend,$(DETECTOR)),pointrend,install)
	$(BIN)/campaign demo --out "$(OUT)" $(if $(DATA),--data "$(DATA)") $(if $(HUMAN),--human) $(if $(TRAIN),--train) $(if $(STAY),--stay) $(if $(DETECTOR),--detector "$(DETECTOR)")

test: install
	$(PYTEST)

# The tests without Label Studio, Chromium and training: a few minutes.
test-fast: install
	$(PYTEST) -m "not label_studio and not browser and not slow"

# Seeded cases against everything that takes something from outside, all surfaces together.
fuzz: install
	$(BIN)/python -m tests.security.fuzz --seed $(SEED) --cases $(CASES)

lint: install
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/mypy
	$(BIN)/lint-imports
	$(BIN)/python .ci/audit.py $(UV) constraints.txt

# Rewrites the pins from pyproject.toml; the result names versions only, never where they come from.
constraints: install
	$(UV) pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate --no-emit-index-url --no-emit-find-links --group pyproject.toml:test --group pyproject.toml:label-studio-ml --extra crowd --extra postgresql --extra s3 --extra gs --extra az --extra pointrend pyproject.toml constraints.in --output-file constraints.txt --upgrade
	echo label-studio==$(LABEL_STUDIO_VERSION) | $(UV) pip compile --quiet --universal --python-version 3.10 --no-header --no-annotate --no-emit-index-url --no-emit-find-links - --output-file constraints-label-studio.txt --upgrade

clean:
	rm -rf $(VENV) demo-out
