"""Self-supervised pre-training of the encoder on the patches themselves, for labs without downloadable weights."""
