"""Tables of results: built once, written as LaTeX, CSV and Markdown."""
