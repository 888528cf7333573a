# Run by Snakemake after it has made the environment (only with `--software-deployment-method conda`).
set -euo pipefail
python -m pip install --require-hashes --requirement requirements/setup.lock
for lock in main torch; do
    python -m pip install --no-build-isolation --no-deps --require-hashes --requirement "requirements/$lock.lock"
done
python -m pip install --no-build-isolation --no-deps --editable .
