# Everything installs into .venv once; later runs start at once.
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed

.PHONY: report test lint types docs check benchmark demo-model clean

report: $(STAMP)  ## explain a prediction of the bundled model: writes report.html and says where
	$(PY) -m tl_neuron_attr report --prompt "Tim Duncan plays the sport of" --target " basketball" --html report.html

test: $(STAMP)  ## every test, doctests included
	$(PY) -m pytest

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)
	$(VENV)/bin/pyright --pythonpath $(PY)

docs: $(STAMP)  ## the documentation site, in site/
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict --quiet

check: lint types test docs

benchmark: $(STAMP)  ## the tables of docs/benchmarks, about 20 minutes on one quiet core
	$(PY) benchmarks/attribution.py --out docs/benchmarks/attribution.md

demo-model: $(STAMP)  ## train the bundled model anew, about 20 minutes on one core
	$(PY) scripts/train_demo.py

clean:
	rm -rf $(VENV) report.html

$(STAMP): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
