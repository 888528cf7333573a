"""The subcommands of `ssmrank`, one module each. They parse arguments and call the package that does the work."""
