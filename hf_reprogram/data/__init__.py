"""Rows to columns: the collators, one file per modality, and length buckets."""
