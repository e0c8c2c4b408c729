"""Our view of a frozen base: how to embed, position, run and read it. Knows families, knows no method."""
