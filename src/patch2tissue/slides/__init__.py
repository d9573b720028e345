"""Whole slides: opening them at a physical resolution, finding tissue, cutting tiles, and maps too large for memory."""
