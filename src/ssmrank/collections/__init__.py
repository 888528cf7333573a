"""Collections: where documents, queries and judgments come from, and the one form in which they are stored."""
