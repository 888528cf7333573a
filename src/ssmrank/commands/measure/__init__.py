"""`ssmrank measure`: measures and gathers what rerankers cost."""
