"""Experiment tracking: jobs write journals, which are copied to MLflow's store.

Importing mlflow takes as long as a small job, SQLite allows one writer at a time, and a database may be down. A job
therefore appends its records to a file of its own, its journal. `ssmrank tracking-store` copies the journals of all
jobs to the store when a workflow ends, and while a long training runs. The first process to need the store creates it
while it holds a lock: that of a file for SQLite, one of the database for PostgreSQL (database.py).
The store is not an input of any job: if it were, Snakemake would train every model again where it is missing, as in a
fresh clone. An error in tracking is logged as a warning and never fails the job.

A run of MLflow is a training with its rerankings and evaluations, a pretraining, or a first stage with its evaluations.
Other jobs have no metric to compare, so they are not tracked; their settings are in results/provenance.
"""

from ssmrank.tracking.journal import Tracked, first_stage, run_of, track, untrained

__all__ = ["Tracked", "first_stage", "run_of", "track", "untrained"]
