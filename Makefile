# make train   learn to run with two agents on this machine, from nothing to an evaluated policy
# make test    the test suite with coverage        make lint   format, lint and types
# make docs    the documentation site, build/docs/html/index.html      make linkcheck  its links to other sites
# make bench   what a learning iteration costs on this machine, part by part, and what each optimisation is worth
# make venv    only the virtual environment         make clean  remove caches and build products

PYTHON ?= python3
TASK ?= mamujoco/halfcheetah-2x3
SEED ?= 0
RUN ?= runs/$(TASK)/dima-small-seed$(SEED)
ARGS ?=
COVERAGE ?= 90

bin := .venv/bin
ready := .venv/ready
browser := .venv/browser

.PHONY: train test docs linkcheck bench lint types format venv clean

train: $(ready)
	$(bin)/dima train $(TASK) --algorithm dima --preset small --seed $(SEED) --run $(RUN) $(ARGS)
	$(bin)/dima evaluate $(RUN) --episodes 5

test: $(ready) $(browser)
	OMP_NUM_THREADS=1 $(bin)/python -m pytest -n logical --maxprocesses 8 --cov --cov-fail-under=$(COVERAGE) $(ARGS)

docs: $(ready)
	$(bin)/python docs/site/stage.py build/docs/source
	$(bin)/python -m sphinx --fail-on-warning --keep-going -q -c docs/site build/docs/source build/docs/html

linkcheck: docs
	$(bin)/python -m sphinx -b linkcheck -q -c docs/site build/docs/source build/docs/linkcheck

bench: $(ready)
	$(bin)/python -m benchmarks.speed $(ARGS)

lint: $(ready) types
	$(bin)/ruff check .
	$(bin)/ruff format --check .

types: $(ready)
	$(bin)/mypy

format: $(ready)
	$(bin)/ruff check --fix .
	$(bin)/ruff format .

venv: $(ready)

$(ready): pyproject.toml constraints.txt scripts/make_venv.sh
	PYTHON=$(PYTHON) bash scripts/make_venv.sh
	touch $@

# the reports are looked at in a real browser; tests that need it are skipped where there is none
$(browser): scripts/make_browser.sh | $(ready)
	bash scripts/make_browser.sh
	touch $@

clean:
	rm -rf build dist .pytest_cache .mypy_cache .ruff_cache .hypothesis .coverage .coverage.* *.egg-info
	find . -name __pycache__ -type d -not -path './.venv/*' -prune -exec rm -rf {} +
