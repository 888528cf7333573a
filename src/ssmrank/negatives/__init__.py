"""Negatives for training: documents of the first stage's run that are not judged relevant."""
