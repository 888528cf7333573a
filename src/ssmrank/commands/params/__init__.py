"""`ssmrank params`: check and describe params.yaml."""
