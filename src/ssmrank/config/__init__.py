"""The experiment as typed settings: what params.yaml may say, a file for each of its sections.

`params.Params` is the whole file; its JSON schema is `workflow/schemas/params.schema.json`. A command takes one section
as `--settings`, or one of the classes that are called Settings, which `ssmrank.jobs` makes from the whole
file; so what a job depends on is exactly what it is handed.
"""
