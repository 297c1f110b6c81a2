"""Spaces, step rules and the search for adversarial examples."""
