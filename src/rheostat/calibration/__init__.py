"""What is fitted after training, on held-out images: the dial, exit thresholds, temperatures."""
