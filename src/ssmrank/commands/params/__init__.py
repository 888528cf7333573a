"""`ssmrank params`: checks and describes params.yaml."""
