"""Tissue maps of whole slides: tiles of tissue through the network, blended row by row, and the files made of them."""
