"""`ssmrank table`: tables of results, models and speed."""
