"""Input programs, one file each."""
