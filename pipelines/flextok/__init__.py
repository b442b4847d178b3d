"""Pictures as 1 to 256 ordered tokens, and tokens from text."""
