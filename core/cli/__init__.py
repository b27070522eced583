"""The `tara` command."""
