"""Labelling patches: what people say of which patch, in which order they are asked, and how far they agree."""
