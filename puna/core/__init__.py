"""What every other room stands on: configuration, run directory, random streams, messages, outcomes, statistics."""
