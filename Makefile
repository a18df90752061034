# make setup   .venv with everything      make demo   the main job on built-in images, against a truth
# make test    the tests, in short        make test-all   in full: bigger runs, real launches, more kills and damaged files
# make lint    style and types            make docs   the documents as a site, build/site/index.html
# make smoke   imports every module and runs the first steps of a training
# make study CIFAR10=DIR TINY=DIR   the studies similar_cost and tiny_imagenet; existing results are kept; SEEDS per short truth
# make fuzz    changed files for every reader      make torture   jobs killed, disks filled, kept files damaged
# make tutorial   docs/tutorial.ipynb from docs/tutorial.py, run
# make gpu-libraries   CUDA 11.8, cuDNN and NCCL from PyPI for its GPU wheel of Paddle, which brings none of them
# PYTHON chooses the interpreter, REQUIREMENTS the wheel of Paddle: requirements-cpu.txt, or requirements.txt for a GPU.

VENV ?= .venv
PY := $(VENV)/bin/python
DEMO := runs/demo
DEMO_CONFIG := -c studies/demo/supernet.yaml -o output_dir=$(DEMO) data.root=$(DEMO)/images \
	method.teacher=$(DEMO)/largest.safetensors model.pretrained=$(DEMO)/largest.safetensors
SMOKE := build/smoke
SEEDS ?= 16
PACKAGES := $(VENV)/lib/python3*/site-packages
INSTALLED := $(if $(wildcard $(PACKAGES)/paddlepaddle_gpu-*),requirements.txt,$(if $(wildcard $(PACKAGES)/paddlepaddle-*),requirements-cpu.txt))
WHEEL := $(or $(REQUIREMENTS),$(INSTALLED),requirements-cpu.txt)
PIP := $(PY) -m pip --disable-pip-version-check install
# A command may be there and yet not run (pyenv's, for a version that is not selected), so each is tried.
SUPPORTED := -c 'import ensurepip, sys, venv; sys.exit(not (3, 10) <= sys.version_info < (3, 13))' >/dev/null 2>&1
WANTED := Python 3.10, 3.11 or 3.12 with its venv module
# The demo's networks are too small for a second thread to help.
export OMP_NUM_THREADS ?= 1

.PHONY: setup wheel gpu-libraries demo test test-all lint docs tutorial smoke study fuzz torture

setup: $(VENV)/ready
	@test -z "$(PYTHON)" || test "$$($(PYTHON) --version)" = "$$($(PY) --version)" || \
		{ echo "setup: $(VENV) has $$($(PY) --version), not $(PYTHON)'s: remove $(VENV), or choose another VENV" >&2; exit 2; }

# A second wheel would overwrite files of the first.
wheel:
	@test -z "$(INSTALLED)" || test "$(WHEEL)" = "$(INSTALLED)" || \
		{ echo "setup: $(VENV) has the wheel of $(INSTALLED), not of $(WHEEL): remove $(VENV), or choose another VENV" >&2; exit 2; }

# An environment whose making was interrupted is made anew; it says so itself, so that no other folder is removed.
UNFINISHED := $(VENV)/.unfinished
ifneq ($(wildcard $(UNFINISHED)),)
.PHONY: $(PY)
endif

$(PY):
	@if test -e $(UNFINISHED); then echo "setup: $(VENV) was left unfinished, and is made anew"; rm -rf $(VENV); fi; \
	for python in $(or $(PYTHON),python3.11 python3.10 python3.12 python3 python); do \
		if $$python $(SUPPORTED); then \
			echo "setup 1/3: $(VENV) with $$($$python --version)"; \
			rmdir $(VENV) 2>/dev/null; test -e $(VENV) || { mkdir -p $(VENV) && touch $(UNFINISHED); }; \
			$$python -m venv $(VENV) && rm -f $(UNFINISHED); exit; fi; done; \
	echo "setup: $(WANTED) is needed$(PYTHON:%=, % is not one); install one, or name it: make setup PYTHON=/path/to/python3.11" >&2; exit 2

$(VENV)/ready: requirements.txt requirements-common.txt requirements-cpu.txt requirements-dev.txt pyproject.toml | wheel $(PY)
	@$(PY) $(SUPPORTED) || { echo "setup: $(VENV) is not of $(WANTED): remove it" >&2; exit 2; }
	@echo "setup 2/3: the packages of $(WHEEL) and requirements-dev.txt: about $(if $(filter requirements.txt,$(WHEEL)),1.2,0.5) GB to fetch, one to three minutes"
	@$(PIP) -r $(WHEEL) -r requirements-dev.txt
	@echo "setup 3/3: this package, in place"
	@$(PIP) --quiet --no-deps --no-build-isolation -e .
	@touch $@
	@echo "setup: done"

# The loader looks for libcudnn.so in one folder; NVIDIA's packages hold libcudnn.so.8 in folders of their own.
gpu-libraries: setup
	@$(PIP) --no-deps -r requirements-gpu-libraries.txt
	@mkdir -p $(VENV)/cuda
	@for file in $(abspath $(VENV))/lib/python3*/site-packages/nvidia/*/lib/lib*.so.*; do \
		name=$${file##*/}; ln -sf "$$file" $(VENV)/cuda/$$name; ln -sf "$$file" $(VENV)/cuda/$${name%%.so.*}.so; done
	@grep -q VIRTUAL_ENV/cuda $(VENV)/bin/activate || \
		echo 'export LD_LIBRARY_PATH="$$VIRTUAL_ENV/cuda$${LD_LIBRARY_PATH:+:$$LD_LIBRARY_PATH}"' >> $(VENV)/bin/activate
	@echo "gpu-libraries: activate the environment again: . $(VENV)/bin/activate"

demo: setup
	rm -rf $(DEMO)
	$(PY) studies/demo/make_images.py $(DEMO)/images
	$(PY) tools/sample_candidates.py --space studies/demo/space.yaml --count 48 --seed 1 --output $(DEMO)/candidates.json
	$(PY) tools/train_standalone.py -c studies/demo/largest.yaml -o data.root=$(DEMO)/images \
		--arch 14441111111111111111111111111 --weights $(DEMO)/largest.safetensors
	$(PY) tools/train_supernet.py $(DEMO_CONFIG)
	$(PY) tools/write_submission.py $(DEMO_CONFIG) --weights $(DEMO)/supernet.safetensors \
		--candidates $(DEMO)/candidates.json --output $(DEMO)/submission.json
	for prior in flops params zen; do \
		$(PY) tools/score_prior.py $(DEMO_CONFIG) --prior $$prior --candidates $(DEMO)/candidates.json --output $(DEMO)/$$prior.json \
		|| exit; \
	done
	$(PY) tools/compare.py $(DEMO)/submission.json $(DEMO)/flops.json $(DEMO)/params.json $(DEMO)/zen.json \
		--space studies/demo/space.yaml --truth studies/demo/truth.json --run $(DEMO) --output $(DEMO)/report.html
	@echo "submission: $(DEMO)/submission.json"

smoke: setup
	rm -rf $(SMOKE)
	$(PY) -c "import importlib, pkgutil, paddle_pgonas as pg; from paddle_pgonas.runtime import prepare_process; prepare_process(); \
		[importlib.import_module(module.name) for module in pkgutil.walk_packages(pg.__path__, 'paddle_pgonas.')]"
	$(VENV)/bin/pgonas-sample-candidates --space mini --count 4 --output $(SMOKE)/candidates.json
	$(PY) tools/train_supernet.py -c configs/demo.yaml \
		-o output_dir=$(SMOKE) train.max_steps=2 train.watch_images=20 train.watch_subnets=0
	$(PY) tools/write_submission.py -c configs/demo.yaml -o output_dir=$(SMOKE) data.val_limit=50 \
		--weights $(SMOKE)/supernet.safetensors --candidates $(SMOKE)/candidates.json --output $(SMOKE)/submission.json

test: setup
	$(PY) -m pytest -n auto --dist worksteal -m "not slow"

test-all: setup
	$(PY) -m pytest -n auto --dist worksteal

# Stand-alone accuracies by two processes: $(call truth,configuration,images,folder of the results,options)
define truth
	pids=; for part in 0/2 1/2; do \
		$(PY) studies/truth_trainer/train_truth.py -c studies/$(1).yaml -o data.root=$(2) \
			--candidates studies/similar_cost/candidates.json --results studies/$(3) $(4) --part $$part & pids="$$pids $$!"; \
	done; for pid in $$pids; do wait $$pid || exit; done
endef

# A study's runs and its report: $(call supernets,study,images)
define supernets
	$(PY) studies/run.py run --study studies/$(1)/study.yaml --root $(2)
	$(PY) studies/run.py report --study studies/$(1)/study.yaml
endef

study: setup
	@test -d "$(CIFAR10)/train" -a -d "$(TINY)/train" || \
		{ echo "study: make study CIFAR10=DIR TINY=DIR, folders with train/<class>/* and val/<class>/*" >&2; exit 2; }
	$(call truth,similar_cost/truth,$(CIFAR10),similar_cost,--seeds $(SEEDS))
	$(call truth,similar_cost/truth_long,$(CIFAR10),similar_cost/unseen,--seeds 2 --without studies/similar_cost/long/accuracies.json)
	$(call supernets,similar_cost,$(CIFAR10))
	$(call truth,tiny_imagenet/truth,$(TINY),tiny_imagenet,--seeds $(SEEDS))
	$(call supernets,tiny_imagenet,$(TINY))

# Both print their seed and their counts; SECONDS bounds them.
fuzz: setup
	$(PY) tests/fuzz.py --seconds $(or $(SECONDS),300)

torture: setup
	$(PY) tests/torture.py --seconds $(or $(SECONDS),600)

lint: setup
	$(PY) -m ruff check .
	$(PY) -m ruff format --check .
	$(PY) -m mypy

docs: setup
	@$(PIP) --quiet -r docs/requirements.txt
	$(PY) -m sphinx -q -W --keep-going -c docs -d build/doctrees . build/site
	@echo "docs: build/site/index.html"

tutorial: setup
	@$(PIP) --quiet -r docs/requirements.txt
	$(PY) docs/build_tutorial.py
