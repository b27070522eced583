"""Bundles and releases: what a phase is handed out as, where it is put, and how it is switched back."""
