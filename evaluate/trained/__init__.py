"""What trains through the images: loop, batches, probes on augmented views, fine-tuning; no cached features."""
