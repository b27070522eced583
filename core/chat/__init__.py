"""Talking to what was built: an engine process for each base, and conversations that are routed among domains."""
