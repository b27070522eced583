"""Making state.db anew, from what can be read of a damaged one and from the run folders: the second copy."""
