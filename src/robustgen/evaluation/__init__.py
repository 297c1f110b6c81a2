"""Attacks on trained cohorts, distances to manifolds, and the quality of learned manifolds."""
