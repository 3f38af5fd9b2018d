"""Language models between autoregression and diffusion, in JAX and Flax."""
