# The only door for humans and CI. 'make' or 'make help' lists the targets.

PYTHON ?= python3
# Every package of our own environment, with its version; users get the ranges of pyproject.toml. See CONTRIBUTING.
# To renew it: make clean; make setup PINS=/dev/null; make check test-slow; make pins
PINS ?= .github/constraints.txt
# Another pair than the pinned one: make setup TORCH='torch==2.11.0 torchvision==0.26.0'
TORCH ?= $(shell grep -E '^torch(vision)?==' $(PINS) || echo torch torchvision)
# Debian: apt-get install dataset-fashion-mnist. Elsewhere: a folder with the four IDX files.
FASHION ?= /usr/share/datasets/fashion-mnist

BIN := .venv/bin
VITCTL := $(BIN)/vitctl

.DEFAULT_GOAL := help
.PHONY: help setup demo demo-compare demo-weights test test-slow bench bench-accuracy check format readme sizes pins clean

help: ## list the targets
	@sed -n 's/^\([a-z-]*\):.*## /\1\t/p' $(MAKEFILE_LIST) | awk -F '\t' '{ printf "  make %-14s %s\n", $$1, $$2 }'

setup: .venv/installed ## make .venv with vitctl (editable) and everything it needs

PIP := $(BIN)/python -m pip install --quiet --disable-pip-version-check -c .venv/constraints.txt $(TORCH)

# TORCH stands on both lines, and its pins stay out of the constraints, so that a pair of your own is kept
.venv/installed: pyproject.toml Makefile $(PINS)
	$(PYTHON) -m venv .venv
	sed -E '/^torch(vision)?==/d' $(PINS) > .venv/constraints.txt
	$(PIP)
	$(PIP) --editable '.[dev,onnx,hf,heic,tensorboard]'
	@touch $@

demo: setup ## fine-tune the embedded ViT at a higher resolution, evaluate it (3 minutes)
	$(VITCTL) finetune --out runs/demo --overwrite
	$(VITCTL) evaluate runs/demo --split test

demo-compare: demo ## the same from random weights, to see what pretraining gives
	$(VITCTL) finetune --weights none --head zero --out runs/demo-scratch --overwrite
	$(VITCTL) evaluate runs/demo-scratch --split test
	@for run in demo demo-scratch; do \
	    $(BIN)/python -c 'import json, sys; print(f"{sys.argv[1]:<18}{json.load(open(sys.argv[2]))[sys.argv[3]]:.2%}")' \
	        runs/$$run runs/$$run/evaluate-test/evaluation.json top1; \
	done

demo-weights: setup ## train the embedded weights again, from scratch on Fashion-MNIST (45 minutes)
	$(VITCTL) finetune --data $(FASHION) --val-fraction 0 --model demo --weights none --image-size 32 \
	    --recipe demo-pretrain --flip --seed 0 --num-threads 2 --out runs/demo-weights --overwrite
	$(VITCTL) evaluate runs/demo-weights --data $(FASHION) --split test
	$(BIN)/python -m vitctl.workflows.pack_demo_weights runs/demo-weights

# Two processes with one thread each: two cores do no better. A file stays in one process, as its fixtures are shared;
# files go in the order of their names, which begins with the long ones.
TESTS := OMP_NUM_THREADS=1 $(BIN)/python -m pytest -n 2 --dist loadfile --no-loadscope-reorder

test: setup ## the default tests: CPU, no network, under three minutes
	$(TESTS) --durations=20

test-slow: setup ## architecture sweeps, interruption, several processes: under thirty minutes
	$(TESTS) -m slow --durations=20

bench: setup ## cost of decoding, training, few-shot classifiers and starting against plain ones (eight minutes)
	$(BIN)/python tests/benchmarks/decode.py
	$(BIN)/python tests/benchmarks/training.py
	$(BIN)/python tests/benchmarks/fewshot.py
	$(BIN)/python tests/benchmarks/start.py

# More of the script: make bench-accuracy JUDGE='--recipe transfer --out runs/accuracy-transfer'
bench-accuracy: setup ## test error of the defaults on five sets, three seeds; resumable, long
	$(BIN)/python tests/benchmarks/sets.py --out runs/sets development
	$(BIN)/python tests/benchmarks/accuracy.py --sets runs/sets --out runs/accuracy $(JUDGE)

check: setup ## format, lint, types, tests with coverage
	$(BIN)/ruff format --check .
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(TESTS) --cov --cov-report=term:skip-covered

format: setup ## rewrite the code in the house format
	$(BIN)/ruff format .
	$(BIN)/ruff check --fix .

readme: setup ## rewrite what README, CONTRIBUTING and the guides show of the tool
	$(BIN)/python tests/rules/readme.py

sizes: setup ## the ten longest files and functions, for a person to look at
	$(BIN)/python tests/rules/sizes.py

pins: setup ## write what is installed to .github/constraints.txt
	@{ sed -n '/^#/p' .github/constraints.txt; \
	   $(BIN)/python -m pip freeze --exclude-editable | sed -nE 's/^([A-Za-z0-9._-]+==[^+ ]+).*/\1/p'; } > .venv/pins
	mv .venv/pins .github/constraints.txt
	@touch .venv/installed

clean: ## remove the environment and the caches; runs/ stays
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .coverage build *.egg-info
