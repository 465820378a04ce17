"""Integer versions of the modules that a family uses; swap.py puts them in."""
