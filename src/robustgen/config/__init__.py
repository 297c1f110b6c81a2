"""The config of a study: its blocks and checks, and what each job depends on. Imports no torch."""
