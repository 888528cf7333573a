"""`ssmrank figure`: draws figures."""
