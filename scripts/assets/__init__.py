"""What scripts/fetch_models.py can fetch: one file per kind of thing, each with its `ASSETS`."""
