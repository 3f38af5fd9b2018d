"""Networks: the transformer, and the denoiser that wraps it in a hyperschedule's rules."""
