"""Environments: made, checked, seeded episode by episode, stepped together."""
