"""Answers for the rules: which files an experiment needs, what each job depends on, and where outputs come from."""
