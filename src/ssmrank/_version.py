"""The package's version, apart from its code, so that a new one makes no result again."""

__version__ = "0.1.0"
