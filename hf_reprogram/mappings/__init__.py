"""Output mappings, one file each."""
