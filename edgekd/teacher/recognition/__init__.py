"""From tensors by name to the network that they are the weights of."""
