"""The package's version. It is in a module of its own, so that a new version does not make results again."""

__version__ = "0.1.0"
