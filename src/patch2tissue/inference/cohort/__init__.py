"""Many slides on many machines: slides are split into strips, which the actors of a Ray cluster draw."""
