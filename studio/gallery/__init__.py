"""Finished pictures: files written whole or not at all, an index to search, a trash to undo from."""
