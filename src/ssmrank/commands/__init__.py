"""The subcommands of `ssmrank`, a module each: they parse arguments, and call the package that does the work."""
