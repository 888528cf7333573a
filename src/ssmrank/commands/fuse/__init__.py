"""`ssmrank fuse`: one TREC run from several."""
