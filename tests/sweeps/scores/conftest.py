"""Fixtures of the tests of scores."""

from .made_up_grid import finished_grid

__all__ = ["finished_grid"]
