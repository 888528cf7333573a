"""What the tests of clusters share; each server has a module of its own in this folder."""
