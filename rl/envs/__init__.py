"""Environments: making, checking and stepping them, and video."""
