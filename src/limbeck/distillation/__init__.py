"""What update rules are made of: inputs of a step, noise, timesteps, weights, critics, kernels."""
