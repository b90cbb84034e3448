"""Training: `python -m coatnet_mini.train`, on a laptop, on one GPU or on many."""
