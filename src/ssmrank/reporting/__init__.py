"""Tables and figures of results. A table is built once and written as LaTeX, CSV, Markdown and HTML."""
