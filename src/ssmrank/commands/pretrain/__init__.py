"""`ssmrank pretrain`: pretrain language models."""
