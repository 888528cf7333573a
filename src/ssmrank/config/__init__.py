"""The experiment as typed settings: what params.yaml may contain, with a module for each of its sections.

`params.Params` is the whole file; its JSON schema is `workflow/schemas/params.schema.json`. A subcommand takes as
`--settings` one section, or one of the classes named Settings, which `ssmrank.jobs` makes from the whole file. A job
thus depends on exactly what it is handed.
"""
