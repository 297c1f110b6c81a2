"""Jobs: their frame with log and error messages, their fingerprints, and the plan of a study."""
