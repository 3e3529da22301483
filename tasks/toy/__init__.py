"""The toy bandit."""
