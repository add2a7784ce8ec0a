# Everything installs into .venv once; later runs start at once.
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: report test lint types check clean

report: $(STAMP)  ## attribute a fact of the bundled model and write report.html
	$(PY) -m tl_neuron_attr report --prompt "Tim Duncan plays the sport of" --target " basketball" --html report.html

test: $(STAMP)  ## every test, doctests included
	$(PY) -m pytest

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)
	$(VENV)/bin/pyright

check: lint types test

clean:
	rm -rf $(VENV) report.html

$(STAMP): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
