"""`ssmrank index`: index a collection."""
