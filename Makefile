# `make table4` and `make test` need git, make and Python 3.11 to 3.13, and set up .venv themselves.

BIN := .venv/bin
CORES ?= $(shell nproc 2>/dev/null || echo 2)
SNAKEMAKE = $(BIN)/snakemake --cores $(CORES)
TABLE := results/tables/table4

# uv does not read pip's settings, so a folder of wheels (a CPU build of torch, say) and a certificate are passed on.
comma := ,
ifdef PIP_FIND_LINKS
export UV_FIND_LINKS ?= $(subst $() ,$(comma),$(PIP_FIND_LINKS))
endif
ifdef PIP_CERT
export SSL_CERT_FILE ?= $(PIP_CERT)
endif
export UV_HTTP_TIMEOUT ?= 180
unexport PYTHONPATH PYTHONHOME PYTHONDONTWRITEBYTECODE
CALLER_PATH := $(PATH)
export PATH := $(CURDIR)/.venv/bin:$(PATH)
export VIRTUAL_ENV := $(CURDIR)/.venv
UV = $(BIN)/uv

# A worker runs whole files, so that fixtures of a file are made once. tests/projects.py decides which files come first.
WORKERS ?= $(shell echo $$(($(CORES) < 8 ? $(CORES) : 8)))
PARALLEL_TESTS = $(BIN)/python -m pytest -n $(WORKERS) --dist loadfile --no-loadscope-reorder

.PHONY: help table4 pdf report ui dag docs readme push pull quick test test-cluster chaos lint types style format lock upgrade tidy clean

help:  ## this list
	@sed -n 's/^\([a-z0-9-]*\):.*## \(.*\)/make \1@\2/p' Makefile | column -t -s @

table4: .venv/main.stamp  ## run the experiment of params.yaml and print its table
	$(SNAKEMAKE) $(TABLE).tex $(TABLE).csv $(TABLE).md
	@echo; cat $(TABLE).md

pdf: .venv/main.stamp  ## typeset the table (needs latexmk)
	$(SNAKEMAKE) $(TABLE).pdf

report: .venv/main.stamp  ## results/report.html: tables, figures, times and provenance
	$(SNAKEMAKE) all all_figures
	$(BIN)/snakemake all all_figures --report results/report.html

ui: .venv/main.stamp  ## compare the runs in MLflow's web page (STORE=postgresql://...)
	@echo 'Trainings and their metrics: http://127.0.0.1:5000/#/experiments/1/runs?viewStateShareKey=metrics&workflowType=machine_learning'
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --workers 1 --backend-store-uri $(or $(STORE),sqlite:///mlflow.db)

push: .venv/main.stamp  ## send finished outputs to the DVC remote
	$(BIN)/python workflow/scripts/remote.py push

pull: .venv/main.stamp  ## fetch finished outputs from the DVC remote, and check them
	$(BIN)/python workflow/scripts/remote.py pull

quick: lint  ## style, types and the quick tests: what to run before each commit
	$(PARALLEL_TESTS) -m "not slow and not pretrained" $(PYTEST)

test: .venv/dev.stamp  ## run the tests
	$(PARALLEL_TESTS) $(PYTEST)

test-cluster: .venv/dev.stamp  ## run the tests that start Slurm, PostgreSQL and an S3 server; see tests/cluster
	$(PARALLEL_TESTS) tests/cluster $(PYTEST)

chaos: .venv/dev.stamp  ## kill runs anywhere, fill disks, run at once (KILLS=50 SEED=...); see tests/chaos
	CHAOS_KILLS=$(or $(KILLS),50) CHAOS_SEED=$(SEED) $(BIN)/python -m pytest tests/chaos $(PYTEST)

lint: .venv/dev.stamp  ## style, types, workflow, documentation
	@$(MAKE) --no-print-directory --output-sync -j 2 types docs style

types: .venv/dev.stamp
	$(BIN)/mypy

style: .venv/dev.stamp
	$(BIN)/ruff check .
	$(BIN)/lint-imports
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

format: .venv/dev.stamp  ## mend what ruff and snakefmt can mend by themselves
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile workflow

docs: .venv/dev.stamp  ## build the documentation into site/
	NO_MKDOCS_2_WARNING=1 $(BIN)/mkdocs build --strict

dag: .venv/main.stamp  ## the pictures of docs/architecture.md (needs Graphviz)
	$(BIN)/snakemake --rulegraph dot | $(BIN)/python workflow/scripts/draw_dag.py | dot -Tsvg > docs/dag.svg
	dot -Tsvg docs/data-flow.dot > docs/data-flow.svg

readme: table4  ## put the table into README.md
	sed -i -e '/<!-- table4 -->/,/<!-- end of table4 -->/{//!d}' -e '/<!-- table4 -->/r $(TABLE).md' README.md

lock: .venv/uv.stamp  ## write requirements/*.lock again: what pyproject.toml asks for, other versions as they are
	$(COMPILE) $(call LEAVE_OUT,torch triton $(CUDA_PACKAGES)) pyproject.toml --extra pipeline \
	    -o requirements/main.lock
	$(COMPILE) -c requirements/main.lock requirements/torch.in -o requirements/torch.lock
	$(COMPILE) $(call LEAVE_OUT,torch $(CUDA_PACKAGES)) pyproject.toml --extra dev -c requirements/main.lock \
	    -c requirements/torch.lock -o requirements/dev.lock
	$(COMPILE) -c requirements/main.lock requirements/setup.in -o requirements/setup.lock

upgrade:  ## as lock, with the newest versions around requirements/pins.txt
	$(MAKE) lock UPGRADE=--upgrade

tidy: .venv/main.stamp  ## remove half-written files and states of code that no longer exists
	$(BIN)/python workflow/scripts/tidy.py

clean:  ## remove the environment; data and results stay
	rm -rf .venv site .pytest_cache .mypy_cache .ruff_cache

# torch and its CUDA packages have a lock of their own, since a CPU build has other digests and needs no CUDA packages.
# Triton stays in the tests' lock, because tests run its kernels in its interpreter.
CUDA_PACKAGES := cuda-bindings cuda-pathfinder cuda-toolkit $(addprefix nvidia-,cublas cuda-cupti cuda-nvrtc \
    cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)
# For all Pythons and platforms, with digests. Local wheels are ignored, because their version (2.13.0+cpu) would be
# locked for everyone. Addresses are left out, because any index that has these files will do.
COMPILE = env -u UV_FIND_LINKS -u UV_TORCH_BACKEND $(UV) pip compile --quiet $(UPGRADE) --universal --generate-hashes \
    --python-version 3.11 --no-annotate --no-emit-index-url --no-emit-find-links --custom-compile-command 'make lock' \
    -c requirements/pins.txt
LEAVE_OUT = $(addprefix --no-emit-package ,$(1))

FIND_PYTHON = PATH="$(CALLER_PATH)"; for python in python3.11 python3.12 python3.13 python3; do \
    $$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && \
    echo $$python && break; done

.venv/uv.stamp: requirements/setup.lock
	@python="$${PYTHON:-$$($(FIND_PYTHON))}"; \
	if [ -z "$$python" ]; then \
	    echo "No Python 3.11, 3.12 or 3.13 with venv found: install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	fi; \
	echo "Setting up .venv with $$python"; "$$python" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check --require-hashes -r requirements/setup.lock
	@touch $@

# Every installed package has its digest in a lock, except a torch of another build: from UV_TORCH_BACKEND's index, or a
# wheel in a folder of PIP_FIND_LINKS. With TORCH_SHA256 that one is checked too (a wheel by pip, because uv does not
# compute its digest). The workflow's command `snakemake` is installed last, because it replaces Snakemake's own.
INSTALL = $(UV) pip install --quiet --no-build-isolation
CHECKED = $(INSTALL) --no-deps --require-hashes
TORCH := $(shell grep -om1 '^torch==[^ ;]*' requirements/torch.lock)

.venv/%.stamp: requirements/%.lock requirements/torch.lock pyproject.toml workflow/bin/snakemake .venv/uv.stamp
	@echo "Installing the packages of $< (up to 2.5 GB; a minute or a few)"
	$(CHECKED) -r $<
	@echo "$(TORCH)$(TORCH_SHA256:%= --hash=sha256:%)" > .venv/torch.txt
	@if [ -n "$$UV_TORCH_BACKEND" ]; then \
	    $(INSTALL) $(TORCH_SHA256:%=--no-deps --require-hashes) -r .venv/torch.txt; \
	elif [ -n "$(TORCH_SHA256)" ]; then \
	    $(BIN)/python -m pip install --quiet --no-deps --require-hashes -r .venv/torch.txt; \
	elif [ -n "$$UV_FIND_LINKS" ] && $(INSTALL) --no-index -r .venv/torch.txt 2>/dev/null; then \
	    echo "$(TORCH) is a local wheel, whose digest is not checked (SECURITY.md)"; \
	else \
	    $(CHECKED) -r requirements/torch.lock; \
	fi
	$(INSTALL) --no-deps --reinstall --editable .
	@install -m 755 workflow/bin/snakemake $(BIN)/snakemake
	$(UV) pip check --quiet
	@touch $@
