"""What goes around programs: nothing else in the package needs these."""
