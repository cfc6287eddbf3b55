"""Branches that may go altogether: which masks can be emptied, and what then becomes of the network."""
