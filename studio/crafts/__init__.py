"""What the studio makes, one module per kind of request: checks, work, where the product goes."""
