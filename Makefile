PYTHON ?= python3.11
BIN := .venv/bin

.PHONY: quickstart test lint docs clean

# The stamp is made last, so that an interrupted install is repeated instead of taken for complete.
.venv/installed: pyproject.toml constraints.txt
	$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11) and "sslzoo needs Python 3.11 or newer: make PYTHON=...")'
	$(PYTHON) -m venv .venv
	$(BIN)/python -m pip install --quiet --constraint constraints.txt torch==2.13.0
	$(BIN)/python -m pip install --quiet --constraint constraints.txt --editable '.[dev]'
	touch $@

quickstart: .venv/installed
	$(BIN)/python recipes/quickstart.py

# The tests of the Space drive a browser: Debian's package where there is none.
test: .venv/installed
	@test -x /usr/bin/chromium || { apt-get update -qq && apt-get install -y -qq chromium; } > /dev/null \
		|| { echo "the Space's tests drive /usr/bin/chromium: install it, as root with apt-get install chromium"; exit 1; }
	$(BIN)/python -m pytest --numprocesses auto --dist worksteal

# The site, with warnings as errors: build/site/index.html.
docs: .venv/installed
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

lint: .venv/installed docs
	$(BIN)/ruff check .
	$(BIN)/pyrefly check --output-format min-text

clean:
	rm -rf .venv runs build
