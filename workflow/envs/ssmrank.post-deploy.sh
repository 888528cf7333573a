# Run by Snakemake after it has made the environment (only with `--software-deployment-method conda`).
set -euo pipefail
python -m pip install --requirement requirements/main.lock
python -m pip install --no-deps --editable .
