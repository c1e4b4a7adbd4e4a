"""What every room stands on: whole files, random streams, ranks, interrupts, messages."""
