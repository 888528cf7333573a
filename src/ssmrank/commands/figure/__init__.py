"""`ssmrank figure`: figures."""
