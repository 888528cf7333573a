"""`ssmrank index`: indexes a collection."""
