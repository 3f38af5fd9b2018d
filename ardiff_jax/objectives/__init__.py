"""Training objectives: what a model is taught, in nats per token."""
