"""Building blocks of distillation methods: step inputs, noise, timesteps, weights, critics."""
