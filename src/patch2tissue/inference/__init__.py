"""Tissue maps of images of any size: tiles, symmetries, masks, overlays and areas."""
