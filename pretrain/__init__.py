"""The method and the weights it makes: Fast-MoCo pretraining on torch and torchvision alone."""
