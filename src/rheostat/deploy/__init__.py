"""What leaves the laboratory: files for other runtimes, and a server."""
