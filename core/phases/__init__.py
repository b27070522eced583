"""Phases and their domains: what may happen to them, and the plan that turns one into jobs."""
