# Two commands: `make demo` and `make test`. Both set up .venv first, where it is missing or out of date.
PYTHON ?= python3
VENV := .venv
BIN := $(VENV)/bin
STAMP := $(VENV)/.installed
DOCS_STAMP := $(VENV)/.installed-docs
export HF_HUB_DISABLE_TELEMETRY := 1
export TOKENIZERS_PARALLELISM := false
export MPLBACKEND := Agg
export PIP_DISABLE_PIP_VERSION_CHECK := 1

.PHONY: demo test slow extras gpu lint docs wheel install clean

install: $(STAMP)

# torch goes first and alone, so that a build for this machine is kept and nothing pulls another over it
$(STAMP): pyproject.toml constraints.txt
	test -x $(BIN)/python || $(PYTHON) -m venv $(VENV)
	$(BIN)/python -m pip install --quiet $$(grep '^torch==' constraints.txt) $(if $(LIMBECK_TORCH_INDEX),--index-url $(LIMBECK_TORCH_INDEX))
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[world,dev]'
	touch $(STAMP)

demo: install
	$(BIN)/python examples/demo.py

test: export HF_HUB_OFFLINE := 1
test: export OMP_NUM_THREADS := 1
test: install lint
	$(BIN)/python -m pytest -n auto --maxprocesses 4 --dist loadfile

slow: export HF_HUB_OFFLINE := 1
slow: install $(DOCS_STAMP)
	$(BIN)/python -m pytest -m slow --timeout 3600

# packages without which tests skip; constraints.txt has no versions of most of them
extras: export HF_HUB_OFFLINE := 1
extras: install
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[ray,slurm,log,optuna,parity,parquet]'
	$(BIN)/python -m pytest tests/metrics/test_reference_packages.py tests/sweeps/test_page.py

gpu: export HF_HUB_OFFLINE := 1
gpu: install
	$(BIN)/python -m pytest -m gpu --timeout 1800

lint: install
	$(BIN)/ruff check src tests examples benchmarks docs/*.py
	$(BIN)/ruff format --check src tests examples benchmarks docs/*.py
	$(BIN)/lint-imports
	$(BIN)/mypy
	$(BIN)/codespell

# the site in docs/_build/html; a warning, such as a broken internal link, is an error
docs: $(DOCS_STAMP)
	$(BIN)/python -m sphinx -b html -W --keep-going -q docs docs/_build/html

$(DOCS_STAMP): $(STAMP)
	$(BIN)/python -m pip install --quiet -c constraints.txt -e '.[docs]'
	touch $(DOCS_STAMP)

# dist/*.whl, and the README's first command in an environment that has only the wheel
wheel: install
	$(BIN)/python -m pip wheel --quiet --no-deps --wheel-dir dist .
	$(BIN)/python -m pytest -m slow tests/docs/test_wheel.py --timeout 1800

clean:
	rm -rf $(VENV)
