# make setup   .venv with everything      make demo   the main job on built-in images
# make test    the tests                  make lint   style and types      make docs   docs/api.md from the docstrings
# PYTHON chooses the interpreter, REQUIREMENTS the wheel of Paddle (a GPU wheel only where nvidia-smi finds a GPU).

PYTHON ?= $(shell command -v python3.11 || command -v python3)
VENV ?= .venv
PY := $(VENV)/bin/python
REQUIREMENTS ?= $(shell nvidia-smi -L >/dev/null 2>&1 && echo requirements.txt || echo requirements-cpu.txt)
DEMO := runs/demo
# The demo's networks are too small for a second thread to help.
export OMP_NUM_THREADS ?= 1

.PHONY: setup demo test lint docs

setup: $(VENV)/ready

$(VENV)/ready: $(REQUIREMENTS) requirements-dev.txt
	$(PYTHON) -m venv $(VENV)
	$(PY) -m pip install --quiet --disable-pip-version-check -r $(REQUIREMENTS) -r requirements-dev.txt
	touch $@

demo: setup
	rm -rf $(DEMO)
	$(PY) tools/sample_candidates.py --space mini --count 200 --seed 1 --output $(DEMO)/candidates.json
	$(PY) tools/train_supernet.py -c configs/demo.yaml
	$(PY) tools/write_submission.py -c configs/demo.yaml --weights $(DEMO)/supernet.safetensors \
		--candidates $(DEMO)/candidates.json --output $(DEMO)/submission.json
	for prior in flops params zen; do \
		$(PY) tools/score_prior.py --prior $$prior --candidates $(DEMO)/candidates.json --output $(DEMO)/$$prior.json || exit; \
	done
	$(PY) tools/compare.py $(DEMO)/submission.json $(DEMO)/flops.json $(DEMO)/params.json $(DEMO)/zen.json \
		--run $(DEMO) --output $(DEMO)/report.html
	@echo "submission: $(DEMO)/submission.json"

test: setup
	$(PY) -m pytest -n auto

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

docs: setup
	$(PY) docs/build_api.py
