"""Temporal heads to compare with."""
