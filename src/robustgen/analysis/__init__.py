"""From the tables of all jobs to statistics, claims and verdicts."""
