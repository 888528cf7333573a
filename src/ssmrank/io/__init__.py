"""Files: atomic writes, JSON lines, TREC runs and qrels, checksums."""
