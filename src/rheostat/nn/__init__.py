"""Seats (convolution, dense, norm) and the parts that methods give them."""
