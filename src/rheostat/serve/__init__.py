"""A prediction server whose dial is policy: FastAPI in front, micro-batches behind."""
