"""Object detection in JAX with the operations and the numbers of torchvision."""
