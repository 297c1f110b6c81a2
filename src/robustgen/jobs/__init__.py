"""What surrounds the call of a job: its log, its fingerprint, the plan of a study."""
