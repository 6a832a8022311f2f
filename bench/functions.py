"""Rows of functions: placeholder until the workers land."""
