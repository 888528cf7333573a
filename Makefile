# `make table4` and `make test` need git, make and Python 3.11 to 3.13, and set up .venv themselves.

BIN := .venv/bin
UV_VERSION := 0.13.9
CORES ?= $(shell nproc 2>/dev/null || echo 2)
SNAKEMAKE = $(BIN)/snakemake --cores $(CORES)
TABLE := results/tables/table4

# uv does not read pip's settings; a folder of wheels (with a CPU build of torch, say) or a certificate counts here too.
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

.PHONY: help table4 pdf report ui dag readme pull test lint format lock clean

help:  ## this list
	@sed -n 's/^\([a-z0-9]*\):.*## \(.*\)/make \1@\2/p' Makefile | column -t -s @

table4: .venv/main.stamp  ## run the experiment of params.yaml and print its table
	$(SNAKEMAKE) $(TABLE).tex $(TABLE).csv $(TABLE).md
	@echo; cat $(TABLE).md

pdf: .venv/main.stamp  ## typeset the table (needs latexmk)
	$(SNAKEMAKE) $(TABLE).pdf

report: .venv/main.stamp  ## results/report.html: tables, figures, times and provenance
	$(SNAKEMAKE) all all_figures
	$(BIN)/snakemake all all_figures --report results/report.html

ui: .venv/main.stamp  ## compare the runs in MLflow's web page
	MLFLOW_SERVER_ENABLE_JOB_EXECUTION=false $(BIN)/mlflow ui --workers 1 --backend-store-uri sqlite:///mlflow.db

pull: .venv/main.stamp  ## fetch finished outputs from the DVC remote
	$(BIN)/dvc pull

test: .venv/dev.stamp  ## run the tests
	$(BIN)/python -m pytest $(PYTEST)

lint: .venv/dev.stamp  ## style, types, workflow
	$(BIN)/ruff check .
	$(BIN)/mypy
	$(BIN)/snakefmt --check Snakefile workflow
	$(BIN)/snakemake --lint

format: .venv/dev.stamp  ## mend what ruff and snakefmt can mend by themselves
	$(BIN)/ruff check --fix .
	$(BIN)/snakefmt Snakefile workflow

dag: .venv/main.stamp  ## docs/dag.svg: the rules of the workflow (needs Graphviz)
	$(BIN)/snakemake --rulegraph dot > .venv/dag.dot
	dot -Tsvg .venv/dag.dot > docs/dag.svg

readme: table4  ## put the table into README.md
	sed -i -e '/<!-- table4 -->/,/<!-- end of table4 -->/{//!d}' -e '/<!-- table4 -->/r $(TABLE).md' README.md

lock: .venv/uv.stamp  ## resolve all versions again, around requirements/pins.txt
	$(COMPILE) $(call LEAVE_OUT,triton $(CUDA_PACKAGES)) pyproject.toml -o requirements/main.lock
	$(COMPILE) $(call LEAVE_OUT,$(CUDA_PACKAGES)) pyproject.toml --extra dev -c requirements/main.lock -o requirements/dev.lock

clean:  ## remove the environment; data and results stay
	rm -rf .venv .pytest_cache .mypy_cache .ruff_cache

# torch itself names the exact versions of its CUDA packages; a CPU build needs none of them. Tests run Triton's
# kernels in its interpreter, so there it stays, in the version that torch's CUDA build asks for.
CUDA_PACKAGES := cuda-bindings cuda-pathfinder cuda-toolkit $(addprefix nvidia-,cublas cuda-cupti cuda-nvrtc \
    cuda-runtime cudnn-cu13 cufft cufile curand cusolver cusparse cusparselt-cu13 nccl-cu13 nvjitlink nvshmem-cu13 nvtx)
# Without local wheels, whose version (2.13.0+cpu) would be locked for everyone.
COMPILE = env -u UV_FIND_LINKS $(UV) pip compile --quiet --upgrade --python-version 3.11 --no-annotate --no-emit-index-url \
    --no-emit-find-links --custom-compile-command 'make lock' -c requirements/pins.txt
LEAVE_OUT = $(addprefix --no-emit-package ,$(1))

FIND_PYTHON = PATH="$(CALLER_PATH)"; for python in python3.11 python3.12 python3.13 python3; do \
    $$python -c 'import ensurepip, sys, venv; sys.exit(not (3, 11) <= sys.version_info < (3, 14))' 2>/dev/null && \
    echo $$python && break; done

.venv/uv.stamp:
	@python="$${PYTHON:-$$($(FIND_PYTHON))}"; \
	if [ -z "$$python" ]; then \
	    echo "No Python 3.11, 3.12 or 3.13 with venv found: install one, or name it: make PYTHON=/path/to/python3.11" >&2; \
	    exit 1; \
	fi; \
	echo "Setting up .venv with $$python"; "$$python" -m venv .venv
	$(BIN)/python -m pip install --quiet --disable-pip-version-check uv==$(UV_VERSION)
	@touch $@

.venv/%.stamp: requirements/%.lock pyproject.toml .venv/uv.stamp
	@echo "Installing the packages of $< (up to 2.5 GB; a minute or a few)"
	$(UV) pip install --quiet -r $<
	$(UV) pip install --quiet --no-deps --no-build-isolation --editable .
	@touch $@
