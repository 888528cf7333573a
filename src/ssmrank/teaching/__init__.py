"""A teacher's scores of the documents of training groups, as targets of distillation losses."""
