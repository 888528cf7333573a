"""First-stage retrieval: a Lucene index of a collection, and BM25 over it."""
