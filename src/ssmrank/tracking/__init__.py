"""Experiment tracking: jobs write journals, and one writer at a time brings them into MLflow's store.

Importing mlflow takes a small job's worth of seconds, and SQLite takes one writer at a time. A job therefore appends
what it has to say to a file of its own; `ssmrank tracking-store` brings the journals of all jobs into the store when a
workflow ends, and while a long training runs. Whoever comes first creates the store, alone, behind a lock. It is no
output that jobs wait for: where it is missing, as in a fresh clone, that would make Snakemake train every model again.
Whatever goes wrong on the way costs a warning, never the job.
"""

from ssmrank.tracking.journal import Tracked, track

__all__ = ["Tracked", "track"]
