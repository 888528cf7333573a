"""`ssmrank download`: fetches collections and models."""
