"""Checkpoints for other libraries: sentence-transformers, transformers and ONNX Runtime."""
