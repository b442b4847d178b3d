"""Attention of image tokens to a neighbourhood, to text and to low-res guide tokens."""
