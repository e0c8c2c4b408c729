"""Training is the ordinary Trainer; this room only fills in what a user would want anyway."""
