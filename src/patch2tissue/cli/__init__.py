"""patch2tissue."""
