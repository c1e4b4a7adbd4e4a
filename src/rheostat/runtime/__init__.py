"""Foundations for all other packages: atomic files, random streams, ranks, interrupts, error messages."""
