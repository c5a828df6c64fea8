# Two commands do everything on a fresh machine: make quickstart, make test.
PYTHON ?= python3
BIN := .venv/bin
STAMP := .venv/installed
PYTEST := $(BIN)/python -m pytest -n 2 --dist loadscope --no-loadscope-reorder

.PHONY: install quickstart test test-fast check docs fuzz

install: $(STAMP)

# The build backend is pinned too, so nothing is resolved that constraints.txt does not name.
$(STAMP): pyproject.toml constraints.txt
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet -c constraints.txt hatchling editables
	$(BIN)/python -m pip install -c constraints.txt --no-build-isolation -e '.[dev]'
	touch $(STAMP)

quickstart: install
	$(BIN)/python -m jobs.quickstart

check: install
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy --num-workers 2

test: check
	$(PYTEST)

# Without clusters, servers, browsers, compilers and long trainings.
test-fast: install
	$(PYTEST) -m "not cluster and not hosts and not slow"

# Mutated files for every reader of outside bytes, for 20 minutes. FUZZ_SEED chooses others.
fuzz: install
	FUZZ_SECONDS=$${FUZZ_SECONDS:-1200} $(BIN)/python -m pytest -p no:xdist -s tests/fuzz

# A broken link, a missing anchor or a name that is not in the sources is an error.
docs: install
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict
