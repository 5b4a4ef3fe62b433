# make run     sets everything up, and serves the page:  make run ARGS="--port 7999 --no-browser"
# make test    the tests but for the slowest             make test ARGS="-k runner", ARGS="-m slow"
# make check   format, lint and types
# make bench   the figures that the README quotes
# make clean   removes the environment and caches; models and conversations (data/) stay

PYTHON ?= python3
PY = .venv/bin/python
ARGS ?=

.PHONY: run test check bench screenshots clean

# Its stamp does not know of a card that came or went since; install.py does, and returns at once if nothing did.
run: .venv/.installed-run
	@$(PYTHON) tools/install.py
	@exec $(PY) launch.py $(ARGS)

# Three at once on two cores: many tests wait for children, retries and streams, in which another works.
test: .venv/.installed-dev
	@sh tools/debian.sh
	@exec $(PY) -m pytest -n 3 --dist loadfile --no-loadscope-reorder -m "not slow" $(ARGS)

check: .venv/.installed-dev
	$(PY) -m ruff format --check .
	$(PY) -m ruff check .
	$(PY) -m mypy

bench: .venv/.installed-dev
	$(PY) -m benchmarks.embedded $(ARGS)

screenshots: .venv/.installed-dev
	@sh tools/debian.sh
	$(PY) -m tools.screenshots

clean:
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache test-results
	find . -name __pycache__ -type d -prune -exec rm -rf {} +

# The first set-up also fetches the embedded model; should that fail, the app tries again by itself.
.venv/.installed-run: requirements.txt requirements-cuda.txt tools/install.py
	@$(PYTHON) tools/install.py
	@$(PY) launch.py models get || true
	@touch $@

.venv/.installed-dev: .venv/.installed-run requirements-dev.txt requirements-lmdeploy.txt
	@$(PYTHON) tools/install.py --dev
	@touch $@
