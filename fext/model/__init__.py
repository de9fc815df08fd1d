"""Autoencoders and what is computed with them; no files, no printing."""
