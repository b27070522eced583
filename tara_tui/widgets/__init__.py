"""Parts that know nothing of TARA."""
