"""What stands beside a model's own figures: baselines that tell a reader what was learned."""
