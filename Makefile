# Every target sets up what it needs; a second run reuses what the first made.
#   make demo    the main job, end to end, on notebooks/long_job.ipynb
#   make test    every test       make check   linters and types only
#   make lab     JupyterLab with the extension on the example notebooks
#   make fuzz    a million odd inputs, about 15 minutes (FUZZ_ARGS="--inputs N")
#   make soak    20 minutes of load, saves and kill -9, into RESULTS.md
#   make faults  every fault at every step, in root and rootless mode, into RESULTS.md
#   make bench   speed and size beside plain CRIU, into benchmarks/RESULTS.md

SHELL := /bin/bash
.DELETE_ON_ERROR:

# Debian's own interpreter first: an ordinary user must be able to run the
# environment too (tests), and others may lie below somebody's home.
PYTHON ?= $(shell for p in /usr/bin/python3 python3; do \
	$$p -c 'import sys, ensurepip; sys.exit(sys.version_info < (3, 10))' 2>/dev/null \
	&& echo $$p && break; done)
VENV := .venv
BIN := $(VENV)/bin
STAMPS := $(VENV)/stamps
SUDO := $(shell [ $$(id -u) = 0 ] || echo sudo)
PYTEST_ARGS ?=
# Tests wait more than they compute: three at a time keep two cores busy. In their order,
# for a worker that has driven a browser runs an event loop for ever: tests/ui comes last.
WORKERS ?= 3
FUZZ_ARGS ?=
FAULTS_ARGS ?= --publish
SOAK_ARGS ?= --record

.PHONY: demo test check lab bench faults fuzz soak setup docs clean
demo: setup
	$(BIN)/python -m demo

test: setup check $(STAMPS)/test-tools
	$(BIN)/python -m pytest -rs -n $(WORKERS) --dist loadfile --no-loadscope-reorder \
		$(PYTEST_ARGS)

check: setup
	$(BIN)/ruff check .
	$(BIN)/mypy
	cd labextension && npm run --silent lint

lab: setup
	$(BIN)/jupyter lab --ServerApp.root_dir=notebooks $(if $(filter 0,$(shell id -u)),--allow-root)

bench: setup
	$(BIN)/python -m benchmarks

fuzz: setup
	$(BIN)/pip install -q -e '.[test,fuzz]'
	nice $(BIN)/python tests/fuzz $(FUZZ_ARGS)

# FAULTS_ARGS="--case ID" plays one case, "--shard 1/2" half of them, "--list" none.
faults: setup
	PYTHONPATH=tests $(BIN)/python -m faults $(FAULTS_ARGS)

soak: setup
	$(BIN)/python tests/soak/run.py $(SOAK_ARGS)

docs: setup
	$(BIN)/python docs/generate.py

setup: $(STAMPS)/criu

# Installs Debian's packages in the shell's variable `missing`, if there are any.
INSTALL_MISSING = [ -z "$$missing" ] || { \
	for program in apt-get $(SUDO); do command -v $$program >/dev/null || { \
		echo "error: these Debian packages (or what they are called elsewhere) are missing," \
		"and there is no $$program to install them:$$missing." \
		"Install them and run make again." >&2; exit 1; }; done; \
	echo "installing:$$missing"; \
	$(SUDO) apt-get update -q && \
	$(SUDO) apt-get install -y -q --no-install-recommends $$missing; }

# The shims are compiled, and Debian's python3 comes without venv.
$(STAMPS)/system:
	@missing=; found=; \
	[ -n "$(PYTHON)" ] || missing="$$missing python3 python3-venv"; \
	for cc in $$CC cc gcc clang; do \
		echo '#include <stdio.h>' | $$cc -fsyntax-only -x c - 2>/dev/null && \
		found=yes && break; done; \
	[ -n "$$found" ] || missing="$$missing gcc libc6-dev"; \
	$(INSTALL_MISSING)
	@mkdir -p $(STAMPS) && touch $@

$(STAMPS)/venv: | $(STAMPS)/system
	@[ -n "$(PYTHON)" ] || { echo "error: no Python 3.10 or newer with venv found." \
		"Install one (Debian: apt-get install python3-venv) and run make again." >&2; exit 1; }
	$(PYTHON) -m venv $(VENV)
	$(BIN)/pip install -q --upgrade pip
	mkdir -p $(STAMPS) && touch $@

# What the extension's build tools can run on.
NODE_IS_NEW_ENOUGH = npm --version >/dev/null 2>&1 && \
	IFS=. read -r major minor _ <<< "$$(node --version 2>/dev/null | tr -d v)" && \
	(( major > 22 || (major == 22 && minor >= 12) || (major == 20 && minor >= 19) ))

$(STAMPS)/labextension: labextension/package-lock.json $(shell find labextension/src \
		labextension/style labextension/schema -type f) | $(STAMPS)/venv
	@$(NODE_IS_NEW_ENOUGH) || { echo "error: building the JupyterLab extension needs" \
		"Node 20.19 or newer (of Node 22: 22.12) with npm; Debian 12's own is too old." \
		"Install it and run make again." >&2; exit 1; }
	cd labextension && npm ci --no-audit --no-fund --loglevel=error && npm run --silent build:prod
	touch $@

$(STAMPS)/package: pyproject.toml hatch_build.py $(wildcard native/*.[ch]) $(STAMPS)/labextension
	$(BIN)/pip install -q -e '.[test]'
	touch $@

$(STAMPS)/criu: $(STAMPS)/package
	$(BIN)/jupyter ckpt setup
	touch $@

# Browser tests need a Chromium (JUPYTER_CKPT_CHROMIUM names another one), tests of caps
# mode, which only root can run, setcap.
$(STAMPS)/test-tools: | $(STAMPS)/venv
	@missing=; \
	[ -n "$$JUPYTER_CKPT_CHROMIUM" ] || command -v chromium >/dev/null || \
		missing="$$missing chromium"; \
	[ $$(id -u) != 0 ] || PATH="$$PATH:/usr/sbin:/sbin" command -v setcap >/dev/null || \
		missing="$$missing libcap2-bin"; \
	$(INSTALL_MISSING)
	touch $@

clean:
	rm -rf $(VENV) jupyter_ckpt/labextension jupyter_ckpt/_native labextension/lib \
		labextension/node_modules
