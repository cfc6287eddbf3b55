"""Pruning during training, under resources that shrink: gates, their motion, and the run."""
