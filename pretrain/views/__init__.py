"""The augmented views that pretraining compares, on the CPU or on the device; not the transforms of evaluation."""
