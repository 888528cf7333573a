"""`ssmrank download`: fetch what an experiment starts from."""
