# `make quickstart` and `make test` set themselves up; python3 3.11+ with venv and pip is enough.
# TORCH=cpu|cuda|system picks the PyTorch build (docs/quickstart.md). Written for make 3.81 and later.

PYTHON ?= python3
TORCH_VERSION ?= 2.13.0
# An index to fetch torch from instead of pip's own, e.g. PyTorch's index of CPU wheels.
TORCH_INDEX ?=
# What was chosen once stays chosen: the stamp's name carries it.
KEPT := $(patsubst .venv/.torch-%,%,$(wildcard .venv/.torch-*))
TORCH ?= $(if $(KEPT),$(firstword $(KEPT)),auto)

VENV_PYTHON := .venv/bin/python
PIP := $(VENV_PYTHON) -m pip install --disable-pip-version-check
SUPPORTED := import torch; v = torch.__version__.split("."); raise SystemExit(not (2, 11) <= (int(v[0]), int(v[1])) <= (2, 13))

# The peer's half of a measurement runs where benchmarks/README.md has set it up.
PEER = $(if $(wildcard .peers/trl/bin/python),--peer .peers/trl/bin/python)

LLAMA_CPP = $(if $(wildcard .peers/llama-cpp/.done),.peers/llama-cpp/bin/python)

.PHONY: help quickstart test test-all lint bench parity setup system peers clean

help:
	@echo "make quickstart   install, then raise a small model from raw text to an agent"
	@echo "make test         install, then run the tests (no root, about 15 minutes on 2 cores)"
	@echo "make test-all     every test, slow ones too; a skipped test is a failure"
	@echo "make lint         ruff and mypy"
	@echo "make bench        measurements against other libraries (see benchmarks/)"
	@echo "make parity       models and chats beside transformers' and Meta's code, case by case"
	@echo "make peers        install the libraries that some tests and measurements run beside Puna"
	@echo "make clean        remove .venv and caches; runs/ stays"

quickstart: .venv/.core
	@.venv/bin/puna run quickstart

# Two files at a time, each with one thread: two pools of threads on two cores spin against each other.
PYTEST = OMP_NUM_THREADS=1 $(VENV_PYTHON) -m pytest -n 2 --dist loadfile --durations=25

test: .venv/.dev
	@$(PYTEST) -m "not slow"

test-all: .venv/.dev peers
	@$(MAKE) --no-print-directory system PROGRAMS='$(PROGRAMS) podman:podman runc:runc dafny:dafny'
	@PUNA_NO_SKIPS=1 $(PYTEST)

lint: .venv/.dev
	@.venv/bin/ruff check .
	@.venv/bin/mypy

parity: .venv/.dev
	@OMP_NUM_THREADS=1 $(VENV_PYTHON) -m benchmarks.parity

bench: .venv/.dev
	@$(VENV_PYTHON) benchmarks/startup.py
	@$(VENV_PYTHON) benchmarks/sandbox.py
	@$(VENV_PYTHON) benchmarks/grpo_step.py benchmarks/specs/grpo_164k.json $(PEER)
	@$(VENV_PYTHON) benchmarks/decode.py --threads 2
	@$(if $(LLAMA_CPP),$(VENV_PYTHON) -m benchmarks.llama_cpp --peer $(LLAMA_CPP),echo "beside llama.cpp: make .peers/llama-cpp/.done first")
	@$(VENV_PYTHON) benchmarks/serve_streams.py --streams 1000 --tokens 100 --every 0.1
	@$(VENV_PYTHON) -m benchmarks.serve_load

setup: .venv/.dev

# Each in an environment or a folder of its own; some minutes, once.
peers: .peers/trl/.done .peers/openenv/.done .peers/verifiers/.done .peers/agents/.done .peers/llama-models/.done

.peers/%/.done: benchmarks/requirements-%.txt
	@echo "installing $* into .peers/$*"
	@$(PYTHON) -m venv --clear .peers/$*
	@if [ $* = trl ]; then \
	  .peers/$*/bin/pip install -q --disable-pip-version-check $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') 'torch==$(TORCH_VERSION)'; fi
	@.peers/$*/bin/pip install -q --disable-pip-version-check -r $<
	@touch $@

# Meta's own code needs what is there already, and is not imported by name.
.peers/llama-models/.done: .venv/.dev
	@echo "installing llama-models into .peers/llama-models"
	@$(PIP) -q --no-deps --upgrade --target .peers/llama-models llama-models==0.3.0 fairscale==0.4.13
	@touch $@

# Programs that some tests use, as program:package. Without root, or without apt, install them by
# other means.
PROGRAMS := chromium:chromium bwrap:bubblewrap git:git xz:xz-utils why3:why3 z3:z3
system:
	@missing=""; \
	for p in $(PROGRAMS); do \
	  command -v "$${p%%:*}" >/dev/null 2>&1 || missing="$$missing $${p#*:}"; \
	done; \
	if [ -z "$$missing" ]; then exit 0; fi; \
	if [ "$$(id -u)" = 0 ] && command -v apt-get >/dev/null 2>&1; then \
	  echo "installing$$missing"; \
	  apt-get update -qq && DEBIAN_FRONTEND=noninteractive apt-get install -y -qq $$missing >/dev/null; \
	else \
	  echo "not installed, and only root with apt can install them here:$$missing"; \
	fi

clean:
	@rm -rf .venv .pytest_cache .mypy_cache .ruff_cache .hypothesis

.venv/.torch-$(TORCH):
	@case '$(TORCH)' in auto|cpu|cuda|system) ;; \
	  *) echo "TORCH is '$(TORCH)'; choose cpu, cuda or system"; exit 1;; esac
	@$(PYTHON) -c 'import sys; sys.exit(sys.version_info < (3, 11))' 2>/dev/null || { \
	  echo "Puna needs Python 3.11 or newer; name one: make PYTHON=python3.12 $(MAKECMDGOALS)"; exit 1; }
	@if [ '$(TORCH)' = system ] && ! $(PYTHON) -c '$(SUPPORTED)' 2>/dev/null; then \
	  echo "$(PYTHON) has no PyTorch 2.11 to 2.13; choose TORCH=cpu or TORCH=cuda"; exit 1; fi
	@if ls .venv/.torch-* >/dev/null 2>&1; then echo "another PyTorch was chosen: .venv anew"; rm -rf .venv; fi
	@set -e; build='$(TORCH)'; \
	case $$build in auto|system) \
	  if $(PYTHON) -c '$(SUPPORTED)' 2>/dev/null; then \
	    $(PYTHON) -m venv --clear --system-site-packages .venv; \
	    if $(VENV_PYTHON) -c '$(SUPPORTED)' 2>/dev/null; then build=found; \
	    elif [ $$build = system ]; then \
	      rm -rf .venv; \
	      echo "a new venv of $(PYTHON) does not see its PyTorch (is $(PYTHON) itself in a venv?)"; exit 1; \
	    else rm -rf .venv; fi; \
	  fi;; esac; \
	if [ $$build = auto ]; then \
	  if command -v nvidia-smi >/dev/null 2>&1; then build=cuda; else build=cpu; fi; \
	fi; \
	if [ $$build = found ]; then echo "using the PyTorch this system has"; exit 0; fi; \
	if [ $$build = cpu ] && [ "$$(uname)" = Linux ] && [ -z '$(TORCH_INDEX)' ]; then \
	  echo "note: pip's usual torch for Linux brings CUDA libraries, several gigabytes that a machine"; \
	  echo "without a GPU does not need; TORCH_INDEX=<PyTorch's index of CPU wheels> avoids them"; \
	fi; \
	echo "installing PyTorch $(TORCH_VERSION) ($$build) into .venv"; \
	$(PYTHON) -m venv .venv; \
	$(PIP) $(if $(TORCH_INDEX),--index-url '$(TORCH_INDEX)') 'torch==$(TORCH_VERSION)'; \
	if [ $$build = cuda ] && ! $(VENV_PYTHON) -c 'import torch; raise SystemExit(not (torch.version.cuda or torch.version.hip))'; then \
	  echo "pip found a build without CUDA; set TORCH_INDEX to PyTorch's index for your CUDA version"; \
	  [ '$(TORCH)' = auto ] || exit 1; \
	fi
	@touch $@

.venv/.core: pyproject.toml .venv/.torch-$(TORCH)
	@echo "installing Puna into .venv"
	@$(PIP) --quiet -e '.[report,endpoint]'
	@touch $@

.venv/.dev: pyproject.toml .venv/.torch-$(TORCH)
	@echo "installing Puna and its tests' needs into .venv"
	@$(PIP) --quiet -e '.[dev]'
	@touch .venv/.core $@
