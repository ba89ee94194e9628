"""What every other room stands on: configuration, runs, random streams, messages, outcomes."""
