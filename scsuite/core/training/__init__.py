"""Training: loader, optimizer, set-up, step, state, trainer, loop, checkpoints and resume."""
