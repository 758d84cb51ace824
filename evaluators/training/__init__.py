"""Train networks: one loop, with its optimizers, schedules and checkpoints."""
