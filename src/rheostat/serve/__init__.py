"""A prediction server that sets the dial by policy: a FastAPI application over a micro-batching engine."""
