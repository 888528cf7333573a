"""Queries and documents that tokenizers and templates treat in odd ways."""

QUERY = "which models rank text (mamba)"
DOCUMENTS = [
    "State space models rank passages; they scan text.",
    "A river (with boats)",
    "mamba " * 200,
    "[SEP] </s> <|endoftext|> are read as text",
    "Ünïcode, 日本語",
    "trailing space ",
    "",
]
LONG_QUERY = "attention convolution " * 60
