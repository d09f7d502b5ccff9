"""Doors: the same sessions behind the interfaces that programs already know."""
