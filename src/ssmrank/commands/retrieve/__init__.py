"""`ssmrank retrieve`: first-stage retrieval."""
