"""Tissue maps of slides for spatial omics: tissues at points, SpatialData and AnnData."""
