"""Metrics of TREC runs, equal to trec_eval's."""
