# Every target sets up what it needs; running one again costs nothing where nothing changed. Only .venv/bin/... is used.
PYTHON ?= python3.11
VENV := .venv
BIN := $(VENV)/bin
PIP := $(BIN)/pip --disable-pip-version-check -q

.PHONY: setup demo serve test test-database bench lint format pretrain clean

setup: $(VENV)/.installed

$(VENV)/.installed: pyproject.toml
	@$(PYTHON) -c 'import sys; assert sys.version_info[:2] == (3, 11), sys.version' 2>/dev/null \
		|| { echo "CosyForge needs Python 3.11 as '$(PYTHON)'; elsewhere say: make PYTHON=/path/to/python3.11 ..."; exit 1; }
	@test -x $(BIN)/pip || { $(PYTHON) -m venv --clear $(VENV) \
		|| { echo "python3-venv is missing: run  apt-get install -y python3.11-venv"; exit 1; }; }
	@echo "Installing CosyForge and what it needs (about two minutes the first time) ..."
	@$(PIP) install -e '.[eval,postgres,test]'
	@# the voice encoder that judges similarity: its weights are used, its own dependencies (librosa, webrtcvad) are not
	@$(PIP) install --no-deps resemblyzer==0.1.4
	@touch $@

demo: setup  ## recordings -> tuned voice -> deployment -> speech, in one command
	@$(BIN)/cosyforge demo --out demo-out $(if $(DATASET),--dataset $(DATASET))

serve: setup  ## the API server on http://127.0.0.1:8000
	@$(BIN)/cosyforge serve

test: setup test-database  ## the whole test suite
	@OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile

# The suites of the platform run on PostgreSQL, too, where it is installed. A build machine gets it; on your own you decide.
test-database:
	@ls /usr/lib/postgresql/*/bin/postgres >/dev/null 2>&1 || if [ -n "$$CI" ] && [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null; \
		then echo "Installing PostgreSQL for the tests ..."; \
			(apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq --no-install-recommends postgresql) >/dev/null 2>&1 \
			|| echo "PostgreSQL could not be installed: its tests will be skipped"; \
		else echo "PostgreSQL is not installed: its tests will be skipped (to run them: apt-get install -y postgresql)"; fi

bench: setup  ## speed and memory, as ratios in one run
	@$(BIN)/python -m cosyforge.benchmark

lint: setup
	@$(BIN)/ruff check src tests
	@$(BIN)/ruff format --check src tests
	@$(BIN)/mypy

format: setup
	@$(BIN)/ruff check --fix -q src tests || true
	@$(BIN)/ruff format src tests

pretrain: setup  ## the built-in base model from nothing (hours on two cores)
	@recipes/nano.sh

clean:
	rm -rf demo-out .pytest_cache .mypy_cache .ruff_cache
