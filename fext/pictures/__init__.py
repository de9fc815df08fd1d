"""Figures made of numbers and images; nothing is written here."""
