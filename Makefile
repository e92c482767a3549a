# `make demo` and `make test` do all the set-up there is: they need Python 3.11, 3.12 or 3.13 and nothing else.

VENV ?= .venv
BIN := $(VENV)/bin
# Extras of pyproject.toml that `make install` adds, separated by commas: `make install EXTRAS=cuda12,beam`.
EXTRAS ?=
# The first of these that is Python 3.11 to 3.13; `make PYTHON=... demo` to choose.
PYTHON ?= $(shell for p in python3 python3.13 python3.12 python3.11; do \
	$$p -c 'import sys; sys.exit(not (3, 11) <= sys.version_info[:2] <= (3, 13))' 2>/dev/null \
	&& echo $$p && break; done)
# Two files of tests at a time: one compiles while the other computes. A process that crashes ends
# the run and names its test: replaced, it can leave pytest-xdist (3.8) waiting for ever.
PYTEST_ARGS ?= -n 2 --dist loadfile --max-worker-restart 0
PIP := $(BIN)/python -m pip --disable-pip-version-check
LOCK := $(BIN)/uv pip compile --quiet --universal --python-version 3.11 --no-annotate --no-header

.PHONY: demo test lint format install install-dev lock clean

demo: install
	$(BIN)/gen1 all --config demo --workdir runs/demo

test: install-dev
	$(BIN)/python -m pytest $(PYTEST_ARGS)

lint: install-dev
	$(BIN)/ruff check .
	$(BIN)/ruff format --check .
	$(BIN)/hadolint Dockerfile

format: install-dev
	$(BIN)/ruff check --fix .
	$(BIN)/ruff format .

install: $(VENV)/.core
	@test -z "$(EXTRAS)" || $(PIP) install --quiet --progress-bar off \
		--constraint requirements-test.lock -e ".[$(EXTRAS)]"

install-dev: $(VENV)/.dev

# The stamps are written last, so that an installation that broke off is done again.
$(VENV)/.venv:
	@test -n "$(PYTHON)" || { echo "make: needs Python 3.11, 3.12 or 3.13 (make PYTHON=/path/to/python3.12)" >&2; exit 2; }
	$(PYTHON) -m venv --clear $(VENV)
	touch $@

$(VENV)/.core: requirements.lock pyproject.toml | $(VENV)/.venv
	$(PIP) install --quiet --progress-bar off -r requirements.lock
	$(PIP) install --quiet --no-deps -e .
	touch $@

# Adds torch and diffusers (the references of the tests), Beam, pytest, ruff. A CPU build of torch is enough.
$(VENV)/.dev: requirements-test.lock $(VENV)/.core
	$(PIP) install --quiet --progress-bar off -r requirements-test.lock
	touch $@

# Pins the versions that pyproject.toml allows. `make lock LOCK_ARGS=--upgrade` takes the newest.
# The locks leave out markers of systems, and the packages that only a CUDA build of torch asks for,
# because which build of torch is installed is the machine's choice.
lock: install-dev
	$(LOCK) $(LOCK_ARGS) --extra beam --extra stores --extra emulators --extra test --extra dev \
		--output-file requirements-test.lock pyproject.toml
	$(LOCK) $(LOCK_ARGS) --constraint requirements-test.lock --output-file requirements.lock \
		pyproject.toml
	sed -i.bak -E "/^(nvidia-|cuda-|triton==|pip==|setuptools==)/d; \
		s/ ; (python_full_version [<>=]+ '3\.1[23]')? ?.*/ ; \1/; s/ ; $$//" \
		requirements.lock requirements-test.lock
	rm -f requirements.lock.bak requirements-test.lock.bak

# Leaves runs/ alone.
clean:
	rm -rf $(VENV) build *.egg-info .pytest_cache .ruff_cache
