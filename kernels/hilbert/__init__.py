"""Space-filling curves and the token orders built from them."""
