"""Negatives for training: documents of the first stage that are not judged relevant."""
