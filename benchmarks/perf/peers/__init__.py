"""What the speed benchmarks compare with: the field's usual ways, written out here as their public code has them."""
