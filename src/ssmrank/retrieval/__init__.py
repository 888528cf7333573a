"""First-stage retrieval: BM25 over a Lucene index, bi-encoders, and runs from files."""
