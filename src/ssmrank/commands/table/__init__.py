"""`ssmrank table`: writes tables of results, models and speed."""
