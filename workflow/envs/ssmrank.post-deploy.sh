#!/usr/bin/env bash
# Run by Snakemake in the environment that it has made, from the workflow's folder (only with
# `--software-deployment-method conda`). It installs what `make` installs.
set -euo pipefail
python -m pip install --quiet --require-hashes --requirement requirements/setup.lock
install() { uv pip install --quiet --python "$CONDA_PREFIX/bin/python" --no-build-isolation --no-deps "$@"; }
install --require-hashes --requirement requirements/main.lock
if [ -n "${UV_TORCH_BACKEND:-}" ]; then
    install "$(grep -om1 '^torch==[^ ;]*' requirements/torch.lock)"
else
    install --require-hashes --requirement requirements/torch.lock
fi
install --editable .
cat requirements/setup.lock requirements/main.lock requirements/torch.lock | sha256sum > "$CONDA_PREFIX/ssmrank-locks.sha256"
