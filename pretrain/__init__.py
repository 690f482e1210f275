"""The method and the weights it makes, Fast-MoCo on torch and torchvision; what weights are worth is `evaluate`'s."""
