"""Training: one sharded step, one loop, checkpoints that survive what happens to real jobs."""
