"""LongAlign: prompts of a page, encoded sentence by sentence, and training that aligns pictures with them."""
