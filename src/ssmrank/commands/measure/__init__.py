"""`ssmrank measure`: what rerankers cost."""
