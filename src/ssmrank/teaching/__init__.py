"""Scores of a teacher for the documents of training groups, which distillation losses learn."""
