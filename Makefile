# Every target works from nothing: it makes a virtual environment, installs plait into it as a user would (a built
# package, the tested versions of constraints.txt) and runs. ARGS is handed to the script: make demo ARGS="--seed 1".

PYTHON ?= python3
WORKERS ?= 2
ARGS ?=
VENV := .venv
VENV_OLDEST := .venv-oldest
OLDEST := transformers==5.17.0 huggingface_hub==1.33.0 httpx==0.28.1 httpcore==1.0.9

PACKAGE := $(wildcard __init__.py __main__.py registration.py py.typed setup.cfg pyproject.toml README.md) \
	$(shell find configuration modeling processing training \( -type d ! -name __pycache__ \) -o -name '*.py' -o -name '*.yaml')

export TOKENIZERS_PARALLELISM := false
export PYTHONUNBUFFERED := 1

# a built package beside the sources would be packed again, with files that are gone
define install
$(PYTHON) -m venv $(1)
rm -rf build plait.egg-info
$(1)/bin/python -m pip install ".[test,demo]" -c $(2)
touch $(1)/.installed
endef

.PHONY: help demo test test-slow test-oldest lint docs parity matrix conformance capabilities bench clean

help:
	@echo "make demo         train on questions about images, save, reload, answer (about ten minutes on two cores)"
	@echo "make test         the tests against the built package (under ten minutes on two cores), then make lint"
	@echo "make test-slow    the tests marked slow: every class against every module, cut of an offload, compilation"
	@echo "make test-oldest  the tests on the oldest supported transformers"
	@echo "make lint         ruff and pyright"
	@echo "make docs         the documentation site, into site/; a warning is an error"
	@echo "make parity       every family beside transformers: relative difference and error to float64"
	@echo "make matrix       every text family x every image family x every fusion at tiny size"
	@echo "make conformance  transformers' common suite over every class: ARGS=\"FOLDER [SHAPE ...]\", FOLDER its tests/"
	@echo "make capabilities what works with what: every capability on 14 kinds of model (eight minutes of CPU)"
	@echo "make bench        speed beside transformers"
	@echo "make clean        remove environments and builds"

$(VENV)/.installed: constraints.txt $(PACKAGE)
	$(call install,$(VENV),constraints.txt)

$(VENV_OLDEST)/constraints.txt: constraints.txt Makefile
	mkdir -p $(VENV_OLDEST)
	grep -v -E "^($(subst $() $(),|,$(foreach pin,$(OLDEST),$(firstword $(subst ==, ,$(pin))))))==" constraints.txt > $@
	printf '%s\n' $(OLDEST) >> $@

$(VENV_OLDEST)/.installed: $(VENV_OLDEST)/constraints.txt $(PACKAGE)
	$(call install,$(VENV_OLDEST),$(VENV_OLDEST)/constraints.txt)

# threads that wait do not spin: on a busy machine they would hold up those that work
demo: $(VENV)/.installed
	OMP_WAIT_POLICY=PASSIVE $(VENV)/bin/python examples/picture_questions.py $(ARGS)

# one thread a worker: the workers already fill the cores
test: $(VENV)/.installed
	PLAIT_TEST_INSTALLED=1 OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n $(WORKERS) -m "not slow" $(ARGS)
	$(MAKE) lint

test-slow: $(VENV)/.installed
	PLAIT_TEST_INSTALLED=1 OMP_NUM_THREADS=1 $(VENV)/bin/pytest -n $(WORKERS) -m slow $(ARGS)

test-oldest: $(VENV_OLDEST)/.installed
	PLAIT_TEST_INSTALLED=1 OMP_NUM_THREADS=1 $(VENV_OLDEST)/bin/pytest -n $(WORKERS) -m "not slow" $(ARGS)

lint: $(VENV)/.installed
	$(VENV)/bin/ruff check .
	$(VENV)/bin/ruff format --check .
	mkdir -p typings
	ln -sfn .. typings/plait
	$(VENV)/bin/pyright --pythonpath $(VENV)/bin/python

# what the site needs besides; plait is already there
$(VENV)/.docs: $(VENV)/.installed
	rm -rf build plait.egg-info
	$(VENV)/bin/python -m pip install ".[docs]" -c constraints.txt
	touch $@

docs: $(VENV)/.docs
	NO_MKDOCS_2_WARNING=1 $(VENV)/bin/python -m mkdocs build --strict --site-dir site
	@echo "look at it: $(VENV)/bin/python -m http.server --directory site"

parity: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/parity.py $(ARGS)

matrix: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/matrix.py $(ARGS)

conformance: $(VENV)/.installed
	$(VENV)/bin/python -m pip install parameterized
	$(VENV)/bin/python benchmarks/conformance.py $(ARGS)

capabilities: $(VENV)/.installed
	$(VENV)/bin/python -m pip install ".[quantization]" -c constraints.txt
	OMP_NUM_THREADS=1 $(VENV)/bin/python benchmarks/capabilities.py $(ARGS)

bench: $(VENV)/.installed
	$(VENV)/bin/python benchmarks/speed.py $(ARGS)

clean:
	rm -rf $(VENV) $(VENV_OLDEST) build dist site typings plait.egg-info
