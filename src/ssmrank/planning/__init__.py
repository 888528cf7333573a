"""What the jobs of an experiment would take: tokens, hours and disk, from measured speeds."""
