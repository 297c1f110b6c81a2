"""Faster implementations of the operations of `backend.PLAIN`; only scripts, jobs and benchmarks
import them."""
